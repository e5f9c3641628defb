// The operator's page: asks the server each second what there is, and shows it.

import { byId, keyed, make, say } from './dom.js';
import { band, bookCount, clock, count, percent, rate } from './format.js';
import { askDrain, askMove } from './ops_dialogs.js';
import { showDecisions } from './ops_decisions.js';
import { showMoves } from './ops_moves.js';
import { LAG_WATCH, showNodes } from './ops_nodes.js';
import { notice, Session, signIn } from './session.js';

const POLL_MS = 1_000;
/** What follows each round that failed; the last for all further ones. */
const BACK_OFF_MS = [1_000, 2_000, 4_000, 8_000];
/** Moves asked for; the server remembers more, which `hotbook admin migrations` lists. */
const MOVES_MAX = 60;
/** Which symbols are halted changes rarely: asked in every so many rounds. */
const INSTRUMENTS_EVERY = 5;
/** What this server does not have is asked for again after so many rounds. */
const MISSING_EVERY = 60;
/** A move that failed longer ago is no news. */
const NEWS_MS = 3_600_000;

const session = new Session('ops');
const state = { nodes: [], books: [], routes: [], moves: [], decisions: null, halted: new Set(), isReady: true };
let failures = 0;
let rounds = 0;
let askDecisionsAt = 0;
let seenAt = null;
let timer = null;
let isAsking = false;

const filter = () => byId('filter').value.trim().toUpperCase();

/** What the supervisor decided; a server without one is asked again now and then. */
async function decisions() {
  if (rounds < askDecisionsAt) return null;
  try {
    return await session.call('GET', '/admin/decisions');
  } catch (e) {
    if (e.status !== 404) throw e;
    askDecisionsAt = rounds + MISSING_EVERY;
    return null;
  }
}

async function ask() {
  const get = path => session.call('GET', path);
  const ready = session.call('GET', '/health/ready').then(
    () => true,
    e => {
      if (e.status === 503) return false;
      throw e;
    },
  );
  const instruments = rounds % INSTRUMENTS_EVERY === 0 ? get('/instruments') : null;
  const [nodes, books, routes, moves, decided, isReady, listed] = await Promise.all([
    get('/admin/nodes'),
    get('/admin/books'),
    get('/admin/routes'),
    get(`/admin/migrations?limit=${MOVES_MAX}`),
    decisions(),
    ready,
    instruments,
  ]);
  Object.assign(state, {
    nodes: nodes.nodes,
    books: books.books,
    routes: routes.routes,
    moves: moves.migrations,
    decisions: decided,
    isReady,
  });
  if (listed) state.halted = new Set(listed.instruments.filter(i => i.status === 'HALTED').map(i => i.symbol));
}

/** One round, and the next one's time. Rounds never overlap; a hidden page asks nothing. */
async function round() {
  clearTimeout(timer);
  if (isAsking || document.hidden || !session.token) return;
  isAsking = true;
  try {
    await ask();
    rounds += 1;
    failures = 0;
    seenAt = new Date();
    showLive(0);
    redraw();
    timer = setTimeout(round, POLL_MS);
  } catch (e) {
    if (e.isAboutToken) {
      session.use(null);
      showSignIn(String(e));
      showParts();
    } else {
      const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)];
      failures += 1;
      showLive(wait, e);
      timer = setTimeout(round, wait);
    }
  } finally {
    isAsking = false;
  }
}

function showLive(wait, error) {
  const isStale = wait > 0;
  const since = seenAt ? `stale since ${clock(seenAt)}: ` : '';
  byId('live').className = isStale ? 'bad' : 'good';
  say(byId('live'), isStale ? `${since}${error.message ?? error}; next try in ${wait / 1_000} s` : 'live');
  byId('live-parts').classList.toggle('stale', isStale);
  byId('retry').hidden = !isStale;
}

function showParts() {
  byId('live-parts').hidden = !session.token || !seenAt;
  if (!session.token) {
    byId('live').className = 'dim';
    say(byId('live'), 'not signed in');
    byId('retry').hidden = true;
  }
}

/** What an operator should look at now, worst first. */
function attention() {
  const found = [];
  const bad = (key, text) => found.push({ key, text, style: 'bad' });
  const watch = (key, text) => found.push({ key, text, style: 'watch' });
  const moving = new Set(state.moves.filter(m => m.status === 'RUNNING').map(m => m.symbol));
  if (!state.isReady) bad('ready', 'The exchange is not ready: a book does not trade yet, or a mirror is behind');
  for (const n of state.nodes) {
    if (n.status === 'DOWN')
      bad(`down ${n.id}`, `${n.id} is down${n.books > 0 ? `, ${bookCount(n.books)} still to be taken over` : ''}`);
    else if (band(n.load).name === 'hot') bad(`hot ${n.id}`, `${n.id} is hot: ${percent(n.load)}`);
    if (n.status === 'DRAINING' && n.books > 0)
      watch(`drain ${n.id}`, `${n.id} is draining, ${bookCount(n.books)} to go`);
  }
  for (const b of state.books) {
    if (!b.active && !moving.has(b.symbol)) bad(`dead ${b.symbol}`, `${b.symbol} does not trade on ${b.node}`);
    if (b.detached && !moving.has(b.symbol)) {
      watch(`detached ${b.symbol}`, `${b.symbol} on ${b.node} has fallen behind, ${count(b.lag)} records to go`);
    } else if (b.lag > LAG_WATCH)
      watch(`lag ${b.symbol}`, `${b.symbol} on ${b.node} is ${count(b.lag)} records behind`);
    if (b.restarts > 0)
      watch(
        `restarts ${b.symbol}`,
        `${b.symbol} was rebuilt ${count(b.restarts)} times after a panic or a lost log session`,
      );
  }
  const node = new Map(state.books.map(b => [b.symbol, b]));
  for (const r of state.routes) {
    const book = node.get(r.symbol);
    if (book && r.status === 'ACTIVE' && r.epoch === book.epoch && r.target_instance !== book.node) {
      watch(`route ${r.symbol}`, `the route of ${r.symbol} says ${r.target_instance}, the book is on ${book.node}`);
    }
  }
  const isNews = m => m.steps[0] && Date.now() - Date.parse(m.steps[0].started_at) < NEWS_MS;
  const failed = state.moves.filter(m => m.status === 'FAILED' && isNews(m)).at(-1);
  if (failed) watch(`failed ${failed.id}`, `move #${failed.id} of ${failed.symbol} FAILED: ${failed.error ?? ''}`);
  return found.sort((a, b) => (a.style === b.style ? 0 : a.style === 'bad' ? -1 : 1));
}

function showAttention() {
  const found = attention();
  const shown = found.slice(0, 12);
  if (found.length > shown.length)
    shown.push({ key: 'more', text: `and ${found.length - shown.length} more`, style: 'watch' });
  if (shown.length === 0)
    shown.push({ key: 'well', text: 'Nothing: every node and every book is well', style: 'good' });
  keyed(
    byId('attention'),
    shown,
    f => f.key,
    () => make('li'),
    (li, f) => {
      li.className = f.style;
      say(li, f.text);
    },
  );
  const sum = field => state.books.reduce((s, b) => s + b[field], 0);
  const up = state.nodes.filter(n => n.status !== 'DOWN').length;
  const totals = [
    ['nodes up', `${up} of ${state.nodes.length}`],
    ['books', count(state.books.length)],
    ['records/s', rate(sum('rate'))],
    ['resting orders', count(sum('orders'))],
    ['largest lag', count(Math.max(0, ...state.books.map(b => b.lag)))],
    ['moves running', count(state.moves.filter(m => m.status === 'RUNNING').length)],
  ];
  keyed(
    byId('totals'),
    totals,
    ([name]) => name,
    ([name]) => make('div', {}, make('dt', {}, name), make('dd')),
    (div, [, value]) => say(div.lastElementChild, value),
  );
}

function redraw() {
  if (!seenAt) return;
  showParts();
  showAttention();
  const moving = new Map(state.moves.filter(m => m.status === 'RUNNING').map(m => [m.symbol, m]));
  const hasStandby = state.books.some(b => b.standby != null && b.standby !== '');
  const view = {
    books: state.books,
    moving,
    halted: state.halted,
    hasStandby,
    filter: filter(),
    sort: byId('sort').value,
  };
  showNodes(state.nodes, view, actions, redraw);
  showMoves(state.moves, filter(), actions);
  showDecisions(state.decisions, filter());
}

const actions = {
  /** The button of a book: aborts its move if one is under way, else asks where to. */
  act(symbol, moveId) {
    const move = state.moves.find(m => String(m.id) === moveId);
    const book = state.books.find(b => b.symbol === symbol);
    if (move) actions.abort(move);
    else if (book) askMove(session, book, state.nodes, round);
  },
  drain(id) {
    const node = state.nodes.find(n => n.id === id);
    if (node) askDrain(session, node, state.nodes, round);
  },
  async abort(move) {
    try {
      await session.call('DELETE', `/admin/migrations/${move.id}`);
      notice(`Move ${move.id} of ${move.symbol} is being stopped.`);
    } catch (e) {
      notice(`Move ${move.id} of ${move.symbol} goes on. ${e}`, true);
    }
    round();
  },
};

const showSignIn = signIn(
  session,
  () => ({ user: 'operator', roles: ['admin'] }),
  () => {
    failures = 0;
    showParts();
    round();
  },
);
for (const id of ['sort', 'moves-shown']) byId(id).addEventListener('change', redraw);
byId('filter').addEventListener('input', redraw);
byId('retry').addEventListener('click', round);
document.addEventListener('visibilitychange', round);
window.addEventListener('online', round);
showParts();
round();
