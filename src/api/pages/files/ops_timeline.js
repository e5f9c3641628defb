// The eight steps of a move, drawn to scale.

import { drawn } from './dom.js';
import { micros, span } from './format.js';

/** The steps in order, with what each is for an operator. */
export const STEPS = [
  ['DetectHotSymbol', 'somebody wants the book to move'],
  ['ProvisionNewInstance', 'the target is there'],
  ['TransferSnapshot', 'snapshot, restore, catch-up; nothing is paused'],
  ['PauseRouting', 'route MIGRATING, fence appended'],
  ['WaitForDrain', "the source's outputs become durable, Sealed"],
  ['SwitchRouting', 'the target has verified and publishes'],
  ['ReplayPendingOrders', 'what waited behind the fence is published'],
  ['Cleanup', 'the source lets go'],
];

const PAUSE = STEPS.findIndex(([name]) => name === 'PauseRouting');
const REPLAY = STEPS.findIndex(([name]) => name === 'ReplayPendingOrders');

/** Which step a move is in, from 1. */
export const stepNumber = move => STEPS.findIndex(([name]) => name === move.steps.at(-1)?.name) + 1;

/** Steps with number, begin and end in microseconds from the move's beginning; the last of a running move is open. */
export function spans(move, now) {
  const origin = micros(move.steps[0]?.started_at ?? now.toISOString());
  return move.steps.map(step => {
    const number = STEPS.findIndex(([name]) => name === step.name);
    const from = micros(step.started_at) - origin;
    const isOpen = step.took_us == null;
    const to = isOpen ? Math.max(from, now.getTime() * 1_000 - origin) : from + step.took_us;
    return { number, name: step.name, from, to, isOpen };
  });
}

export const total = steps => steps.reduce((end, step) => Math.max(end, step.to), 0);

const at = (us, from, to) => (100 * (us - from)) / Math.max(1, to - from);

/** One bar: the steps between `from` and `to` over the full width. */
function bar(steps, from, to, y, height, hasNames) {
  const parts = [drawn('rect', { class: 'ground', x: 0, y, width: '100%', height, rx: 2 })];
  for (const step of steps) {
    const [begin, end] = [Math.max(step.from, from), Math.min(step.to, to)];
    if (end < begin || begin > to) continue;
    const x = Math.min(99.9, at(begin, from, to));
    const width = Math.min(100, at(end, from, to)) - x;
    const title = drawn(
      'title',
      {},
      `${step.number + 1} ${step.name} ${step.isOpen ? 'under way' : span(step.to - step.from)}`,
    );
    const style = `step${step.number + 1}${step.isOpen ? ' unended' : ''}`;
    parts.push(drawn('rect', { class: style, x: `${x}%`, y, width: `${Math.max(0, width)}%`, height }, title));
    if (hasNames && width > 2.5) {
      const label = width > 17 ? `${step.number + 1} ${step.name}` : String(step.number + 1);
      parts.push(
        drawn('text', { class: 'name', x: `${x + width / 2}%`, y: y + height / 2 + 4, 'text-anchor': 'middle' }, label),
      );
    }
  }
  return parts;
}

/** Ticks at round times. */
function axis(from, to, y) {
  const raw = Math.max(1, to - from) / 6;
  const power = 10 ** Math.floor(Math.log10(raw));
  const every = Math.max(
    1,
    [1, 2, 5, 10].map(n => n * power).find(n => n >= raw),
  );
  const parts = [];
  for (let us = Math.ceil(from / every) * every; us <= to; us += every) {
    const x = `${at(us, from, to)}%`;
    const anchor = us === from ? 'start' : at(us, from, to) > 96 ? 'end' : 'middle';
    parts.push(drawn('line', { class: 'scale', x1: x, x2: x, y1: y, y2: y + 4 }));
    parts.push(drawn('text', { x, y: y + 15, 'text-anchor': anchor }, us === 0 ? '0' : span(us)));
  }
  return parts;
}

/** The whole move as one thin bar. */
export function overview(steps) {
  const parts = bar(steps, 0, total(steps), 0, 12, false);
  return drawn('svg', { class: 'timeline', height: 12, 'aria-hidden': 'true' }, ...parts);
}

/** The whole move to scale, and beneath it, magnified to the same width, the part in which orders can wait. */
export function drawing(steps) {
  const end = total(steps);
  const pausing = steps.filter(step => step.number >= PAUSE && step.number <= REPLAY);
  const parts = [
    drawn('text', { x: 0, y: 10 }, `the whole move: ${span(end)}`),
    ...bar(steps, 0, end, 16, 24, true),
    ...axis(0, end, 40),
  ];
  let height = 60;
  if (pausing.length > 0) {
    const [from, to] = [pausing[0].from, total(pausing)];
    const [left, right] = [at(from, 0, end), at(to, 0, end)];
    if (right - left < 70) {
      const shade = drawn('polygon', { points: `${left},0 ${right},0 100,1 0,1` });
      const lens = {
        class: 'lens',
        y: 40,
        width: '100%',
        height: 42,
        viewBox: '0 0 100 1',
        preserveAspectRatio: 'none',
      };
      const times = Math.round(end / Math.max(1, to - from));
      const about = `steps 4 to 7, ${times} times larger: ${span(to - from)}`;
      parts.unshift(drawn('svg', lens, shade));
      parts.push(
        drawn('text', { x: 0, y: 76 }, about),
        ...bar(pausing, from, to, 82, 24, true),
        ...axis(from, to, 106),
      );
      height = 126;
    }
  }
  const label = steps.map(step => `${step.name} ${span(step.to - step.from)}`).join(', ');
  return drawn('svg', { class: 'timeline', height, role: 'img', 'aria-label': `Timeline: ${label}` }, ...parts);
}
