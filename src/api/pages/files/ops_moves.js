// The list of moves, running ones first, each with its timeline and what it cost.

import { byId, keyed, make, say } from './dom.js';
import { bytes, clock, count, span } from './format.js';
import { drawing, overview, spans, STEPS, total } from './ops_timeline.js';

/** A running move can be stopped until its fence is handed to the log. */
const ABORTABLE = ['DetectHotSymbol', 'ProvisionNewInstance', 'TransferSnapshot', 'PauseRouting'];

const STATUS = {
  RUNNING: { style: 'watch', shape: '▶' },
  COMPLETED: { style: 'good', shape: '✓' },
  ABORTED: { style: 'dim', shape: '■' },
  FAILED: { style: 'bad', shape: '✕' },
};

export const isAbortable = move => move.status === 'RUNNING' && ABORTABLE.includes(move.steps.at(-1)?.name);

/** A running move says 0 for what it does not know yet. */
const known = (move, value) => (move.status === 'RUNNING' && value === 0 ? null : value);

/** What a move cost, in the words of docs/moves.md. */
const FACTS = [
  ['pause', m => span(m.pause_us), 'stamped by the log; 0 if no order waited'],
  ['usual gap', m => span(m.baseline_gap_us), 'largest gap between outputs in the second before'],
  ['snapshot stall', m => span(known(m, m.snapshot_stall_us)), 'how long the book stood still to be copied'],
  ['parked', m => count(m.parked), 'orders that waited behind the fence'],
  ['resting orders', m => count(known(m, m.book_orders)), 'size of the book'],
  ['snapshot', m => bytes(known(m, m.snapshot_bytes)), ''],
  [
    'began',
    m =>
      m.steps[0]
        ? `${new Date(m.steps[0].started_at).toLocaleDateString('en-CA')} ${clock(new Date(m.steps[0].started_at))}`
        : '–',
    '',
  ],
  ['wanted by', m => m.cause.toLowerCase(), ''],
];

function create(move, actions) {
  const abort = make(
    'button',
    {
      type: 'button',
      class: 'abort',
      hidden: true,
      onclick: event => {
        event.preventDefault();
        actions.abort(move);
      },
    },
    'Abort',
  );
  const summary = make(
    'summary',
    { onclick: () => (summary.parentElement.dataset.touched = 'yes') },
    make('span', { class: 'dim id' }, `#${move.id}`),
    make('b', {}, move.symbol),
    make('span', { class: 'way' }, `${move.from} → ${move.to}`),
    make('span', { class: 'badge' }),
    make('span', { class: 'bar' }),
    make('span', { class: 'numbers' }),
    make('span', { class: 'when dim' }),
    make('span', { class: 'act' }, abort),
  );
  const facts = FACTS.map(([name, , about]) => make('div', { title: about }, make('dt', {}, name), make('dd', {})));
  const head = make(
    'tr',
    {},
    ...['step', 'state', 'began at', 'took', ''].map(text => make('th', { scope: 'col' }, text)),
  );
  const steps = make('table', { class: 'steps' }, make('thead', {}, head), make('tbody', {}));
  const body = make(
    'div',
    { class: 'body' },
    make('dl', { class: 'facts' }, ...facts),
    make('div', { class: 'drawing' }),
    make('div', { class: 'scroll' }, steps),
  );
  return make(
    'details',
    { class: 'move', id: `move-${move.id}` },
    summary,
    make('p', { class: 'error bad', hidden: true }),
    body,
  );
}

function stepRow(step, steps) {
  const found = steps.find(s => s.number === step);
  const state = !found ? '' : found.isOpen ? 'under way' : 'done';
  const cells = [
    `${step + 1} ${STEPS[step][0]}`,
    state,
    found ? `+${span(found.from)}` : '',
    found && !found.isOpen ? span(found.to - found.from) : '',
    STEPS[step][1],
  ];
  return make('tr', { class: `step${step + 1}` }, ...cells.map(text => make('td', {}, text)));
}

function update(element, move, now) {
  const steps = spans(move, now);
  const { style, shape } = STATUS[move.status] ?? STATUS.FAILED;
  const part = selector => element.querySelector(selector);
  const badge = part('.badge');
  badge.className = `badge ${style}`;
  say(badge, `${shape} ${move.status}`);
  part('.abort').hidden = !isAbortable(move);
  const step = steps.at(-1);
  const running = step ? `${step.number + 1}/8 ${step.name}` : '';
  say(
    part('.numbers'),
    move.status === 'RUNNING'
      ? running
      : `took ${span(total(steps))} · pause ${span(move.pause_us)} · parked ${count(move.parked)}`,
  );
  say(part('.when'), move.steps[0] ? clock(new Date(move.steps[0].started_at)) : '');
  const error = part('.error');
  const why = move.error ?? (move.code ? `waits: ${move.code}` : '');
  error.hidden = !why;
  say(error, why);
  // An ended move is drawn once.
  if (element.dataset.drawn === move.status && move.status !== 'RUNNING') return;
  element.dataset.drawn = move.status;
  part('.bar').replaceChildren(overview(steps));
  part('.drawing').replaceChildren(drawing(steps));
  part('tbody').replaceChildren(...STEPS.map((_, step) => stepRow(step, steps)));
  part('.facts')
    .querySelectorAll('dd')
    .forEach((dd, i) => say(dd, FACTS[i][1](move)));
}

/** The middle one and the largest of the pauses that are shown. */
function summary(moves) {
  const pauses = moves
    .filter(m => m.status === 'COMPLETED' && m.pause_us != null)
    .map(m => m.pause_us)
    .sort((a, b) => a - b);
  if (pauses.length === 0) return '';
  const [middle, longest] = [pauses[pauses.length >> 1], pauses.at(-1)];
  return `pause of the last ${pauses.length} completed: middle ${span(middle)}, longest ${span(longest)}`;
}

/** Opens the newest move, and closes the one that was opened so before unless somebody has touched it since. */
function openNewest(moves) {
  const newest = moves.reduce((max, m) => Math.max(max, m.id), 0);
  if (newest <= opened) return;
  const before = byId(`move-${opened}`);
  if (before && !before.dataset.touched) before.open = false;
  opened = newest;
  byId(`move-${newest}`).open = true;
}

let opened = 0;

/** Shows the moves that fit the filters; the newest first, running ones before them. */
export function showMoves(moves, filter, actions) {
  const status = byId('moves-shown').value;
  const fits = m => (!status || m.status === status) && m.symbol.includes(filter);
  const rank = m => (m.status === 'RUNNING' ? 1 : 0);
  const shown = moves.filter(fits).sort((a, b) => rank(b) - rank(a) || b.id - a.id);
  const now = new Date();
  keyed(
    byId('moves'),
    shown,
    m => m.id,
    m => create(m, actions),
    (element, m) => update(element, m, now),
  );
  openNewest(shown);
  byId('no-moves').hidden = shown.length > 0;
  say(
    byId('no-moves'),
    moves.length === 0 ? 'No book has moved since this process started.' : 'No move fits what is chosen above.',
  );
  say(byId('moves-summary'), summary(shown));
}
