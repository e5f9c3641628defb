// The trading page: one symbol's live market, and the user's orders.

import { byId, keyed, make, say } from './dom.js';
import { clock, count } from './format.js';
import { Session, signIn } from './session.js';
import { Feed } from './trade_feed.js';
import { Orders } from './trade_orders.js';

const LEVELS = 12;
const TRADES = 24;
const INSTRUMENTS_EVERY_MS = 10_000;

const session = new Session('trade');
let instruments = new Map();
let current = null;
let trades = [];
let isDrawn = true;

const scale = symbol => instruments.get(symbol)?.price_scale ?? 2;

/** A price as its symbol writes it. */
function price(symbol, value) {
  if (value == null) return '–';
  const digits = { minimumFractionDigits: scale(symbol), maximumFractionDigits: scale(symbol) };
  return Number(value).toLocaleString('en', digits);
}

/** A price as the order form takes it. */
const plain = value => Number(value).toFixed(scale(current));

/** Many messages make one drawing. */
function draw() {
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => {
    isDrawn = true;
    showDepth();
  });
}

function showDepth() {
  const bids = feed.depth.best('bids', LEVELS);
  const asks = feed.depth.best('asks', LEVELS);
  const most = Math.max(1, bids.at(-1)?.[2] ?? 0, asks.at(-1)?.[2] ?? 0);
  const own = new Set(orders.open.filter(o => o.symbol === current).map(o => `${o.side} ${Number(o.price)}`));
  const show = (id, levels, side) =>
    keyed(
      byId(id),
      levels,
      ([p]) => p,
      level,
      (row, [p, quantity, total]) => {
        const [cell, amount, sum] = row.children;
        say(cell.firstElementChild, `${own.has(`${side} ${p}`) ? '◂ ' : ''}${price(current, p)}`);
        cell.firstElementChild.title = own.has(`${side} ${p}`)
          ? 'one of your orders is here'
          : 'take this price into the order';
        say(amount, count(quantity));
        say(sum, count(total));
        row.style.setProperty('--part', `${(100 * total) / most}%`);
      },
    );
  show('asks', asks.reverse(), 'SELL');
  show('bids', bids, 'BUY');
  const [bid, ask] = [bids[0]?.[0], asks.at(-1)?.[0]];
  const spread = bid != null && ask != null ? `spread ${price(current, ask - bid)}` : 'one side is empty';
  say(byId('spread').firstElementChild, feed.depth.seq === null ? '' : spread);
  say(
    byId('depth-state'),
    feed.depth.seq === null ? '' : `seq ${feed.depth.seq}${feed.gaps ? `, gaps mended: ${feed.gaps}` : ''}`,
  );
}

function level([value]) {
  const button = make('button', {
    type: 'button',
    onclick: () => {
      byId('price').value = plain(value);
      orders.showForm();
    },
  });
  return make('tr', { class: 'level' }, make('td', {}, button), make('td'), make('td'));
}

function showTrades() {
  trades.sort((a, b) => b.seq - a.seq);
  trades.length = Math.min(trades.length, TRADES);
  keyed(
    byId('trades'),
    trades,
    t => t.trade_id,
    t =>
      make(
        'tr',
        { class: t.taker_side === 'BUY' ? 'buy' : 'sell' },
        ...[
          clock(new Date(t.timestamp)),
          t.taker_side === 'BUY' ? '▲ buy' : '▼ sell',
          price(current, t.price),
          count(t.quantity),
        ].map(text => make('td', {}, text)),
      ),
    () => {},
  );
  byId('no-trades').hidden = trades.length > 0;
}

function addTrades(more) {
  const known = new Set(trades.map(t => t.seq));
  trades.push(...more.filter(t => !known.has(t.seq)));
  showTrades();
}

function showTicker(t) {
  const change = t.open ? (100 * (t.last_price - t.open)) / t.open : null;
  const rows = [
    ['last', price(current, t.last_price), ''],
    [
      '24 h',
      change == null ? '–' : `${change >= 0 ? '▲' : '▼'} ${Math.abs(change).toFixed(2)} %`,
      change == null ? '' : change >= 0 ? 'buy' : 'sell',
    ],
    ['high', price(current, t.high), ''],
    ['low', price(current, t.low), ''],
    ['volume', count(t.volume), ''],
    ['trades', count(t.trades), ''],
  ];
  keyed(
    byId('ticker'),
    rows,
    ([name]) => name,
    ([name]) => make('div', {}, make('dt', {}, name), make('dd')),
    (div, [, value, style]) => {
      div.lastElementChild.className = style;
      say(div.lastElementChild, value);
    },
  );
}

function showRules() {
  const i = instruments.get(current);
  byId('halted').hidden = i?.status !== 'HALTED';
  const limits =
    i?.limit_up != null || i?.limit_down != null
      ? `, limits ${price(current, i.limit_down)} to ${price(current, i.limit_up)}`
      : '';
  say(byId('rules'), i ? `tick ${price(current, i.tick_size)}, lot ${count(i.lot_size)}${limits}` : '');
}

function watch(symbol) {
  current = symbol;
  trades = [];
  history.replaceState(null, '', `#${symbol}`);
  byId('price').value = '';
  feed.watch(symbol);
  load();
  showRules();
  orders.showForm();
  draw();
}

/** What there was before the feed began, or while it was away. */
async function load() {
  const symbol = current;
  if (!symbol) return;
  const [past, ticker] = await Promise.all([
    session.call('GET', `/trades/${encodeURIComponent(symbol)}?limit=${TRADES}`),
    session.call('GET', `/ticker/${encodeURIComponent(symbol)}`),
  ]).catch(() => []);
  if (symbol !== current || !past) return;
  addTrades(past.trades);
  showTicker(ticker);
}

/** What may be traded; asked now and then, since symbols are listed and halted while the page is open. */
async function refreshInstruments() {
  try {
    const said = (await session.call('GET', '/instruments')).instruments;
    instruments = new Map(said.map(i => [i.symbol, i]));
    const names = [...instruments.keys()];
    if (names.join() !== [...byId('symbol').options].map(o => o.value).join()) {
      byId('symbol').replaceChildren(...names.map(name => new Option(name)));
      if (current) byId('symbol').value = current;
    }
    byId('no-symbols').hidden = names.length > 0;
    const wanted = decodeURIComponent(location.hash.slice(1));
    if (!current && names.length > 0) {
      byId('symbol').value = instruments.has(wanted) ? wanted : names[0];
      watch(byId('symbol').value);
    }
    showRules();
  } catch {
    // The feed's state says that the server is away.
  }
  setTimeout(refreshInstruments, INSTRUMENTS_EVERY_MS);
}

function showUser() {
  byId('order').hidden = !session.token;
  byId('own').hidden = !session.token;
}

const feed = new Feed({
  depth: draw,
  trade: t => addTrades([t]),
  ticker: showTicker,
  own: (type, data) => orders.heard(type, data),
  opened: () => {
    load();
    orders.refresh();
  },
  state: (text, isWell) => {
    byId('state').className = isWell ? 'good' : 'bad';
    say(byId('state'), text);
  },
});

const orders = new Orders(
  session,
  () => current,
  () => feed,
  price,
  why => {
    draw();
    if (!why) return;
    session.use(null);
    showSignIn(why);
    showUser();
  },
);

const showSignIn = signIn(
  session,
  () => ({ user: byId('user-id').value.trim(), roles: ['trader'] }),
  () => {
    showUser();
    byId('said').replaceChildren();
    orders.open = [];
    feed.become(session.token);
    orders.refresh();
    draw();
  },
);

byId('as-user').addEventListener('submit', event => {
  event.preventDefault();
  byId('use-development').click();
});
byId('symbol').addEventListener('change', event => watch(event.target.value));
window.addEventListener('hashchange', () => {
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (wanted !== current && instruments.has(wanted)) {
    byId('symbol').value = wanted;
    watch(wanted);
  }
});
if (session.token) feed.token = session.token;
showUser();
orders.showForm();
refreshInstruments();
