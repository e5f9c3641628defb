// Why the supervisor moved a book, or did not.

import { byId, keyed, make, say } from './dom.js';
import { clock, percent } from './format.js';

const KINDS = {
  MOVE: { style: 'good', shape: '→' },
  STAY: { style: 'dim', shape: '■' },
  PREPARE: { style: 'watch', shape: '◆' },
  SCALE_IN: { style: 'watch', shape: '↓' },
  ADVISE: { style: 'prepare', shape: '?' },
};

/** A decision that stands is made again at every look. */
const when = d => clock(new Date(d.last_at)) + (d.times > 1 ? ` ×${d.times}` : '');

function update(row, decision) {
  say(row.cells[0], when(decision));
  say(row.cells[3].firstElementChild, decision.message);
}

function create(decision) {
  const { style, shape } = KINDS[decision.kind] ?? { style: 'dim', shape: '·' };
  const link =
    decision.migration_id == null
      ? []
      : [' ', make('a', { href: `#move-${decision.migration_id}`, onclick: open }, `move #${decision.migration_id}`)];
  const way = [decision.from, decision.to].filter(Boolean).join(' → ');
  const load = (decision.nodes ?? []).map(n => `${n.id} ${percent(n.load)}`).join(', ');
  return make(
    'tr',
    {},
    make('td', {}, when(decision)),
    make('td', {}, make('span', { class: `badge ${style}` }, `${shape} ${decision.kind}`)),
    make('td', {}, make('b', {}, decision.symbol ?? ''), ` ${way}`),
    make('td', {}, make('span', {}, decision.message), ' ', make('span', { class: 'dim' }, decision.reason), ...link),
    make('td', { class: 'dim' }, load),
  );
}

function open(event) {
  const move = document.querySelector(event.currentTarget.getAttribute('href'));
  if (move) move.open = true;
}

/** Shows what was decided, newest first; nothing at all on a server without a supervisor. */
export function showDecisions(said, filter) {
  byId('decisions-part').hidden = !said;
  if (!said) return;
  say(byId('decisions-who'), `leader ${said.leader ?? 'none'}, mode ${said.mode}`);
  const fits = d => !filter || (d.symbol ?? '').includes(filter);
  const shown = said.decisions
    .filter(fits)
    .sort((a, b) => (a.last_at < b.last_at ? 1 : -1))
    .slice(0, 100);
  keyed(byId('decisions').querySelector('tbody'), shown, d => `${d.by} ${d.id}`, create, update);
  byId('decisions').hidden = shown.length === 0;
  byId('no-decisions').hidden = shown.length > 0;
}
