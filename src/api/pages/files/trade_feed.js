// Live market data of one symbol, and the user's own messages, over one WebSocket.

const RETRY_MS = 1_000;
const CHANNELS = ['depth', 'trades', 'ticker'];

/** A depth book from a snapshot and the deltas behind it. Says when one is missing. */
export class Depth {
  constructor() {
    this.seq = null;
    this.bids = new Map();
    this.asks = new Map();
  }

  /** Takes a DEPTH message; `false` if something before it is missing: then only a snapshot helps. */
  take(data) {
    if (data.kind === 'snapshot') {
      this.bids.clear();
      this.asks.clear();
    } else if (this.seq === null || data.prev_seq !== this.seq) {
      this.seq = null;
      return false;
    }
    this.seq = data.seq;
    for (const [side, levels] of [
      [this.bids, data.bids],
      [this.asks, data.asks],
    ]) {
      for (const [price, quantity] of levels) {
        if (quantity === 0) side.delete(price);
        else side.set(price, quantity);
      }
    }
    return true;
  }

  /** `[price, quantity, total]` of the best levels, best first. */
  best(side, levels) {
    const order = side === 'bids' ? (a, b) => b[0] - a[0] : (a, b) => a[0] - b[0];
    let sum = 0;
    return [...this[side]]
      .sort(order)
      .slice(0, levels)
      .map(([price, quantity]) => [price, quantity, (sum += quantity)]);
  }
}

export class Feed {
  /**
   * `hears`: functions `depth(book)`, `trade(data)`, `ticker(data)`, `own(type, data)`, `state(text, isWell)`,
   * `opened()`.
   */
  constructor(hears) {
    this.hears = hears;
    this.symbol = null;
    this.token = null;
    this.depth = new Depth();
    this.gaps = 0;
    this.connect();
  }

  connect() {
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`);
    this.socket = socket;
    socket.onopen = () => {
      this.hears.state('live', true);
      if (this.token) this.authenticate();
      if (this.symbol) this.subscribe(CHANNELS, this.symbol);
      this.hears.opened();
    };
    socket.onmessage = message => {
      if (socket === this.socket) this.heard(JSON.parse(message.data));
    };
    socket.onclose = event => {
      if (socket !== this.socket) return;
      this.depth = new Depth();
      this.hears.state(
        event.code === 1012 ? 'the server goes down; connecting again' : 'not connected; trying again',
        false,
      );
      setTimeout(() => this.connect(), RETRY_MS);
    };
  }

  /** Another user, or nobody: a connection belongs to one, so it is a new one. */
  become(token) {
    this.token = token;
    const old = this.socket;
    this.socket = null;
    old.close();
    this.connect();
  }

  watch(symbol) {
    const before = this.symbol;
    this.symbol = symbol;
    this.depth = new Depth();
    if (before) this.send({ action: 'UNSUBSCRIBE', channels: CHANNELS, symbols: [before] });
    this.subscribe(CHANNELS, symbol);
  }

  cancelAll() {
    this.send({ action: 'CANCEL_ALL' });
  }

  authenticate() {
    this.send({ action: 'AUTH', token: this.token });
    this.send({ action: 'SUBSCRIBE', channels: ['orders'] });
  }

  subscribe(channels, symbol) {
    this.send({ action: 'SUBSCRIBE', channels, symbols: [symbol] });
  }

  /** What cannot be sent now is said again when the connection opens. */
  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  heard({ type, data }) {
    switch (type) {
      case 'DEPTH':
        if (data.symbol === this.symbol) this.tookDepth(data);
        break;
      case 'TRADE':
        if (data.symbol === this.symbol) this.hears.trade(data);
        break;
      case 'TICKER':
        if (data.symbol === this.symbol) this.hears.ticker(data);
        break;
      case 'FILL':
      case 'ORDER_STATUS':
      case 'ERROR':
        this.hears.own(type, data);
        break;
      case 'STATUS':
        if (data.status === 'DRAINING') this.hears.state('the server goes down', false);
        else this.hears.own(type, data);
        break;
      default:
    }
  }

  tookDepth(data) {
    const isKnown = this.depth.seq !== null;
    if (this.depth.take(data)) this.hears.depth(this.depth);
    else if (isKnown) {
      // Deltas that are still on their way are skipped until the snapshot comes.
      this.gaps += 1;
      this.hears.state('a depth message is missing; asking for the book again', false);
      this.send({ action: 'UNSUBSCRIBE', channels: ['depth'], symbols: [this.symbol] });
      this.subscribe(['depth'], this.symbol);
    }
    if (data.kind === 'snapshot') this.hears.state('live', true);
  }
}
