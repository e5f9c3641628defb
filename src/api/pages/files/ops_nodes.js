// A card per node: its load, its books, and what can be done with them.

import { byId, keyed, make, say } from './dom.js';
import { band, bookCount, count, percent, rate } from './format.js';
import { isAbortable } from './ops_moves.js';
import { stepNumber } from './ops_timeline.js';

/** Books shown of a node before they are asked for. */
const SHOWN_MAX = 40;

const NODE_STATUS = {
  ACTIVE: { style: 'good', shape: '●' },
  STARTING: { style: 'watch', shape: '◐' },
  DRAINING: { style: 'watch', shape: '◆' },
  DOWN: { style: 'bad', shape: '▲' },
};

const BAND_STYLE = { normal: 'good', watch: 'watch', prepare: 'prepare', hot: 'bad' };

const ORDERS = {
  busy: (a, b) => b.busy - a.busy,
  rate: (a, b) => b.rate - a.rate,
  lag: (a, b) => b.lag - a.lag,
  orders: (a, b) => b.orders - a.orders,
  symbol: () => 0,
};

const COLUMNS = [
  ['book', ''],
  ['busy', 'share of one core that the book takes'],
  ['rate/s', 'records a second'],
  ['orders', 'resting orders'],
  ['lag', 'records behind the end of its log'],
  ['epoch', 'how often it has changed its owner'],
  ['standby', 'where a warm replica follows'],
  ['', ''],
];

function createNode(node, actions, redraw) {
  const drain = make(
    'button',
    { type: 'button', class: 'drain push', onclick: () => actions.drain(node.id) },
    'Drain…',
  );
  const head = COLUMNS.map(([name, about]) =>
    make('th', { scope: 'col', title: about, class: name === 'standby' ? 'standby' : '' }, name),
  );
  const more = make('button', { type: 'button', class: 'plain' });
  const card = make(
    'article',
    { class: 'card node', 'aria-label': `Node ${node.id}` },
    make(
      'header',
      {},
      make('h3', {}, node.id),
      make('span', { class: 'badge' }),
      make('span', { class: 'dim books-count' }),
      drain,
    ),
    make(
      'div',
      { class: 'load' },
      make(
        'div',
        { class: 'meter', role: 'meter', 'aria-label': 'load', 'aria-valuemin': 0, 'aria-valuemax': 100 },
        make('i', {}),
      ),
      make('b', {}),
    ),
    make(
      'div',
      { class: 'scroll' },
      make('table', { class: 'books' }, make('thead', {}, make('tr', {}, ...head)), make('tbody', {})),
    ),
    make('p', { class: 'none dim' }, 'no books'),
    make('p', { class: 'more' }, more),
  );
  more.addEventListener('click', () => {
    card.dataset.all = card.dataset.all ? '' : 'yes';
    redraw();
  });
  return card;
}

function createBook(actions) {
  const cells = COLUMNS.map(([name]) => make('td', { class: name }));
  const row = make('tr', {}, ...cells);
  cells[0].append(make('span', { class: 'symbol' }), make('span', { class: 'badge', hidden: true }));
  cells[1].append(make('span', {}), make('i', {}));
  const act = make('button', {
    type: 'button',
    class: 'act',
    onclick: () => actions.act(row.dataset.key, act.dataset.id),
  });
  cells[7].append(act);
  return row;
}

/** What is unusual about a book, in one word or two; the worst first. */
function state(book, move, halted) {
  if (move) return { text: `→ ${move.to}, step ${stepNumber(move)} of 8`, style: 'watch' };
  if (!book.active) return { text: '▲ does not trade', style: 'bad' };
  if (halted.has(book.symbol)) return { text: 'halted', style: 'watch' };
  if (book.detached) return { text: 'catching up', style: 'watch' };
  return null;
}

function updateBook(row, book, { moving, halted, hasStandby }) {
  const move = moving.get(book.symbol);
  const [symbol, busy, perSecond, orders, lag, epoch, standby, act] = row.children;
  say(symbol.firstElementChild, book.symbol);
  const unusual = state(book, move, halted);
  const badge = symbol.lastElementChild;
  badge.hidden = !unusual;
  badge.className = `badge ${unusual?.style ?? ''}`;
  say(badge, unusual?.text ?? '');
  say(busy.firstElementChild, percent(book.busy, 1));
  busy.lastElementChild.style.width = `${Math.min(100, 100 * book.busy)}%`;
  say(perSecond, rate(book.rate));
  say(orders, count(book.orders));
  say(lag, count(book.lag));
  lag.className = book.lag > LAG_WATCH ? 'lag watch' : 'lag';
  say(epoch, String(book.epoch));
  standby.hidden = !hasStandby;
  say(standby, book.standby == null || book.standby === '' ? '–' : String(book.standby));
  const button = act.firstElementChild;
  button.dataset.id = move?.id ?? '';
  say(button, move ? 'Abort' : 'Move…');
  button.disabled = Boolean(move) && !isAbortable(move);
  button.setAttribute('aria-label', move ? `Abort the move of ${book.symbol}` : `Move ${book.symbol}`);
}

/** More records behind than this is said. */
export const LAG_WATCH = 10_000;

/**
 * Rows as they stand while somebody points at the card or is in it with the keyboard: nothing may slip away under a
 * finger. New ones go to the end.
 */
function order(card, books, by) {
  const sorted = [...books].sort((a, b) => ORDERS[by](a, b) || (a.symbol < b.symbol ? -1 : 1));
  const isHeld = card.matches(':hover, :focus-within') && card.dataset.by === by;
  card.dataset.by = by;
  if (!isHeld) return sorted;
  const rows = [...card.querySelectorAll('tbody tr')].map(row => row.dataset.key);
  const place = symbol => (rows.includes(symbol) ? rows.indexOf(symbol) : rows.length);
  return sorted.sort((a, b) => place(a.symbol) - place(b.symbol));
}

function updateNode(card, node, view, actions) {
  const part = selector => card.querySelector(selector);
  const { style, shape } = NODE_STATUS[node.status] ?? { style: 'bad', shape: '▲' };
  const badge = part('header .badge');
  badge.className = `badge ${style}`;
  say(badge, `${shape} ${node.status}`);
  say(part('.books-count'), bookCount(node.books));
  part('.drain').disabled = node.status === 'DOWN' || node.status === 'DRAINING';
  const { name, shape: mark } = band(node.load);
  const meter = part('.meter');
  meter.setAttribute('aria-valuenow', Math.round(100 * node.load));
  meter.setAttribute('aria-valuetext', `${percent(node.load)}, ${name}`);
  meter.firstElementChild.style.width = `${Math.min(100, 100 * node.load)}%`;
  meter.firstElementChild.className = BAND_STYLE[name];
  const load = part('.load b');
  load.className = BAND_STYLE[name];
  say(load, `${mark} ${percent(node.load)} ${name}`);

  const books = order(
    card,
    view.books.filter(b => b.node === node.id && b.symbol.includes(view.filter)),
    view.sort,
  );
  const shown = card.dataset.all ? books : books.slice(0, SHOWN_MAX);
  keyed(
    part('tbody'),
    shown,
    b => b.symbol,
    () => createBook(actions),
    (row, b) => updateBook(row, b, view),
  );
  part('table').hidden = books.length === 0;
  part('th.standby').hidden = !view.hasStandby;
  part('.none').hidden = books.length > 0;
  say(part('.none'), view.filter && node.books > 0 ? 'no book fits the filter' : 'no books');
  part('.more').hidden = books.length <= SHOWN_MAX;
  say(part('.more button'), card.dataset.all ? `show the first ${SHOWN_MAX} only` : `show all ${count(books.length)}`);
}

/** Shows all nodes. `view`: books, running moves by symbol, halted symbols, filter and sort. */
export function showNodes(nodes, view, actions, redraw) {
  keyed(
    byId('nodes'),
    nodes,
    n => n.id,
    n => createNode(n, actions, redraw),
    (card, n) => updateNode(card, n, view, actions),
  );
}
