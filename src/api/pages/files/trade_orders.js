// Order entry, the user's open orders, and what became of them.

import { byId, keyed, make, say } from './dom.js';
import { clock, count } from './format.js';
import { notice } from './session.js';

const SAID_MAX = 100;

/** An id of our own: an order whose answer is lost can be sent again and cannot be entered twice. */
function newId() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return `web-${[...random].map(b => b.toString(16).padStart(2, '0')).join('')}`;
}

/** What the form says, in the words of POST /orders; prices stay the text that was typed, so they are exact. */
function fromForm(symbol) {
  const order = {
    symbol,
    side: document.querySelector('input[name=side]:checked').value,
    order_type: byId('type').value,
  };
  if (order.order_type === 'LIMIT') {
    order.price = byId('price').value.trim();
    order.time_in_force = byId('tif').value;
    if (byId('post-only').checked) order.post_only = true;
  }
  order.quantity = byId('quantity').value.trim();
  return order;
}

/** The order's result in one line; `price`: a price as its symbol has it. */
function told(order, price) {
  const fills = order.fills ?? [];
  const at = fills.map(f => `${count(f.quantity)} at ${price(order.symbol, f.price)}`).join(', ');
  const rest =
    order.remaining_qty > 0 && !['CANCELED', 'REJECTED'].includes(order.status)
      ? `, ${count(order.remaining_qty)} open`
      : '';
  return `${order.status}${order.reason ? ` (${order.reason})` : ''}${at ? `: ${at}` : ''}${rest}`;
}

export class Orders {
  /** `current` gives the symbol that is looked at, `feed` the live connection, `price` a price as its symbol has it. */
  constructor(session, current, feed, price, changed) {
    Object.assign(this, { session, current, feed, price, changed });
    this.open = [];
    this.unknown = null;
    this.isAsking = false;
    this.isAskedAgain = false;
    byId('order').addEventListener('submit', event => {
      event.preventDefault();
      this.enter();
    });
    byId('order').addEventListener('input', () => this.showForm());
    byId('cancel-all').addEventListener('click', () => this.feed().cancelAll());
  }

  showForm() {
    const isLimit = byId('type').value === 'LIMIT';
    for (const id of ['price', 'tif', 'post-only']) byId(id).disabled = !isLimit;
    byId('price').required = isLimit;
    const { side, quantity, price } = fromForm(this.current());
    const what = [
      side === 'BUY' ? 'Buy' : 'Sell',
      quantity,
      this.current(),
      isLimit ? (price ? `at ${price}` : '') : 'at the market',
    ];
    say(byId('send'), what.filter(Boolean).join(' '));
    byId('send').disabled = !this.current();
  }

  async enter() {
    const order = fromForm(this.current());
    const text = JSON.stringify(order);
    const id = this.unknown?.text === text ? this.unknown.id : newId();
    const result = byId('result');
    byId('send').disabled = true;
    result.className = 'dim';
    say(result, 'sent …');
    try {
      const said = await this.session.call('POST', '/orders', { ...order, order_id: id });
      this.unknown = null;
      result.className = said.status === 'REJECTED' || said.reason ? 'bad' : 'good';
      say(result, told(said, this.price));
    } catch (e) {
      const isUnknown = e.status === 0 || e.status === 504;
      this.unknown = isUnknown ? { id, text } : null;
      result.className = 'bad';
      say(
        result,
        isUnknown
          ? `${e}. It may be in the book: look below, or send the same again, which cannot enter it twice.`
          : String(e),
      );
      if (e.isAboutToken) this.changed(String(e));
    } finally {
      byId('send').disabled = false;
      this.refresh();
    }
  }

  /** Asks for the open orders; once more if something happened meanwhile. */
  async refresh() {
    if (!this.session.token) return;
    if (this.isAsking) {
      this.isAskedAgain = true;
      return;
    }
    this.isAsking = true;
    try {
      this.open = (await this.session.call('GET', '/orders?status=open')).orders;
      this.show();
    } catch (e) {
      if (e.isAboutToken) this.changed(String(e));
    } finally {
      this.isAsking = false;
      if (this.isAskedAgain) {
        this.isAskedAgain = false;
        setTimeout(() => this.refresh(), 100);
      }
    }
  }

  show() {
    const orders = [...this.open].sort((a, b) => (a.symbol < b.symbol ? -1 : a.symbol > b.symbol ? 1 : b.seq - a.seq));
    keyed(
      byId('open').querySelector('tbody'),
      orders,
      o => `${o.symbol} ${o.order_id}`,
      o => this.row(o),
      (row, o) => {
        row.order = o;
        const texts = [
          o.symbol,
          o.side,
          o.price == null ? 'market' : this.price(o.symbol, o.price),
          count(o.quantity),
          count(o.filled_qty),
          count(o.remaining_qty),
          o.status,
          o.order_id,
        ];
        texts.forEach((text, i) => say(row.children[i], String(text)));
        row.children[1].className = o.side === 'BUY' ? 'buy' : 'sell';
      },
    );
    byId('open').hidden = orders.length === 0;
    byId('no-open').hidden = orders.length > 0;
    byId('cancel-all').disabled = orders.length === 0;
    this.changed();
  }

  row() {
    const row = make('tr', {}, ...Array.from({ length: 9 }, () => make('td')));
    row.children[7].className = 'dim id';
    const button = (text, act) => make('button', { type: 'button', onclick: () => act(row.order) }, text);
    row.lastElementChild.append(
      button('Change…', o => this.askChange(o)),
      ' ',
      button('Cancel', o => this.cancel(o)),
    );
    return row;
  }

  at(order) {
    return `/orders/${encodeURIComponent(order.order_id)}?symbol=${encodeURIComponent(order.symbol)}`;
  }

  async cancel(order) {
    try {
      await this.session.call('DELETE', this.at(order));
    } catch (e) {
      notice(`${order.symbol} ${order.order_id} is not canceled. ${e}`, true);
    }
    this.refresh();
  }

  askChange(order) {
    const dialog = byId('change-dialog');
    const error = dialog.querySelector('.error');
    say(byId('change-title'), `Change ${order.side === 'BUY' ? 'buy' : 'sell'} order in ${order.symbol}`);
    say(error, '');
    byId('new-price').value = order.price;
    byId('new-quantity').value = order.quantity;
    dialog.querySelector('.cancel').onclick = () => dialog.close();
    dialog.querySelector('form').onsubmit = async event => {
      event.preventDefault();
      try {
        await this.session.call('PUT', this.at(order), {
          price: byId('new-price').value.trim(),
          quantity: byId('new-quantity').value.trim(),
        });
        dialog.close();
      } catch (e) {
        say(error, `Not changed. ${e}`);
      }
      this.refresh();
    };
    dialog.showModal();
  }

  /** A message about the user's own orders. */
  heard(type, data) {
    const line = {
      FILL: () =>
        `${data.side} ${data.symbol}: ${count(data.filled_qty)} filled at ${this.price(data.symbol, data.filled_price)}, ` +
        `${count(data.remaining_qty)} open`,
      ORDER_STATUS: () => `${data.symbol} ${data.order_id}: ${data.status}${data.reason ? ` (${data.reason})` : ''}`,
      STATUS: () => `${data.symbol}: ${count(data.count)} orders canceled`,
      ERROR: () => `${data.code}: ${data.message}`,
    }[type]();
    const style =
      type === 'ERROR' || data.status === 'REJECTED'
        ? 'bad'
        : type === 'FILL'
          ? data.side === 'BUY'
            ? 'buy'
            : 'sell'
          : '';
    byId('said').prepend(make('li', { class: style }, make('span', { class: 'dim' }, `${clock(new Date())} `), line));
    while (byId('said').children.length > SAID_MAX) byId('said').lastElementChild.remove();
    this.refresh();
  }
}
