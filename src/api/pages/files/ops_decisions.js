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
    make('td', {}, clock(new Date(decision.at))),
    make('td', {}, make('span', { class: `badge ${style}` }, `${shape} ${decision.kind}`)),
    make('td', {}, make('b', {}, decision.symbol ?? ''), ` ${way}`),
    make('td', {}, `${decision.message} `, make('span', { class: 'dim' }, decision.reason), ...link),
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
    .sort((a, b) => (a.at < b.at ? 1 : -1))
    .slice(0, 100);
  const key = d => [d.at, d.kind, d.symbol, d.reason, d.from, d.to].join(' ');
  keyed(byId('decisions').querySelector('tbody'), shown, key, create, () => {});
  byId('decisions').hidden = shown.length === 0;
  byId('no-decisions').hidden = shown.length > 0;
}
