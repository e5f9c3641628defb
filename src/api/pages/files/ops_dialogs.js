// What is asked before a book is moved or a node is drained.

import { byId, make, say } from './dom.js';
import { bookCount, count, percent, rate } from './format.js';
import { notice } from './session.js';

/** Opens a dialog; `confirm` does what it is about and may throw, which is shown and leaves it open. */
function ask(dialog, confirm) {
  const form = dialog.querySelector('form');
  const error = dialog.querySelector('.error');
  const button = dialog.querySelector('.confirm');
  say(error, '');
  button.disabled = false;
  dialog.querySelector('.cancel').onclick = () => dialog.close();
  form.onsubmit = async event => {
    event.preventDefault();
    button.disabled = true;
    try {
      await confirm();
      dialog.close();
    } catch (e) {
      say(error, `Refused. ${e}`);
    } finally {
      button.disabled = false;
    }
  };
  dialog.showModal();
  dialog.querySelector('input:checked')?.focus();
}

const takesBooks = node => node.status !== 'DOWN' && node.status !== 'DRAINING';

function target(node, isChosen, onchange) {
  const radio = make('input', {
    type: 'radio',
    name: 'target',
    value: node.id,
    required: true,
    checked: isChosen,
    disabled: !takesBooks(node),
    onchange,
  });
  const about = takesBooks(node) ? `load ${percent(node.load)}, ${bookCount(node.books)}` : node.status.toLowerCase();
  return make('label', {}, radio, make('b', {}, node.id), make('span', { class: 'dim' }, about));
}

/** Asks where to, and moves the book there. */
export function askMove(session, book, nodes, done) {
  const dialog = byId('move-dialog');
  const button = dialog.querySelector('.confirm');
  const others = nodes.filter(n => n.id !== book.node);
  const best = others.filter(takesBooks).sort((a, b) => a.load - b.load || a.books - b.books)[0];
  const chosen = () => dialog.querySelector('input[name=target]:checked')?.value;
  const name = () => say(button, chosen() ? `Move ${book.symbol} to ${chosen()}` : 'Move');
  say(byId('move-title'), `Move ${book.symbol} from ${book.node}`);
  say(
    byId('move-about'),
    `${count(book.orders)} resting orders, ${rate(book.rate)} records a second. It trades on while it moves.`,
  );
  byId('targets').replaceChildren(...others.map(n => target(n, n === best, name)));
  name();
  ask(dialog, async () => {
    const to = chosen();
    const { id } = await session.call('POST', '/admin/migrations', { symbol: book.symbol, target: to });
    notice(`Move ${id} of ${book.symbol} to ${to} has begun.`);
    done(id);
  });
  if (!best) {
    say(dialog.querySelector('.error'), 'No other node takes books.');
    button.disabled = true;
  }
}

/** Asks, and drains the node. */
export function askDrain(session, node, nodes, done) {
  const dialog = byId('drain-dialog');
  const others = nodes.filter(n => n.id !== node.id && takesBooks(n)).map(n => n.id);
  say(byId('drain-title'), `Drain ${node.id}`);
  const where = others.length > 0 ? `move to ${others.join(', ')} while they trade` : 'have nowhere to go';
  say(byId('drain-about'), `${bookCount(node.books)} ${where}. It gets no new ones until the process starts again.`);
  say(dialog.querySelector('.confirm'), `Drain ${node.id}`);
  ask(dialog, async () => {
    const { books } = await session.call('POST', `/admin/nodes/${encodeURIComponent(node.id)}/drain`, {});
    notice(`${node.id} is draining, ${bookCount(books)} to leave it.`);
    done();
  });
}
