// Who the page is for the server: a token, kept for this tab only.

import { byId, make, say } from './dom.js';

const ANSWER_WITHIN_MS = 8_000;

/** What the server refused, with its stable code; or `status` 0: it did not answer. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  get isAboutToken() {
    return this.status === 401 || this.status === 403;
  }

  toString() {
    return `${this.code}: ${this.message}`;
  }
}

export class Session {
  /** `name`: what the token is kept under. */
  constructor(name) {
    this.key = `hotbook.${name}.token`;
    this.token = sessionStorage.getItem(this.key);
  }

  use(token) {
    this.token = token;
    if (token) sessionStorage.setItem(this.key, token);
    else sessionStorage.removeItem(this.key);
  }

  /** The user that the token names, for show: the server is who checks it. */
  get user() {
    try {
      const claims = this.token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
      return JSON.parse(atob(claims)).sub ?? '';
    } catch {
      return '';
    }
  }

  /** A development token; refused by servers with an identity of their own. */
  async develop(user, roles) {
    this.use(null);
    this.use((await this.call('POST', '/auth/dev-token', { user_id: user, roles })).token);
  }

  /** The answer's JSON, or throws [`Refused`]. */
  async call(method, path, body) {
    const headers = {};
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    let response;
    let said;
    try {
      const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
      response = await fetch(path, { method, headers, body: JSON.stringify(body), signal, cache: 'no-store' });
      said = await response.text();
    } catch (e) {
      throw new Refused(
        0,
        'no_answer',
        e.name === 'TimeoutError' ? 'the server did not answer in time' : 'the server cannot be reached',
      );
    }
    let json;
    try {
      json = JSON.parse(said);
    } catch {
      throw new Refused(response.ok ? 0 : response.status, 'no_answer', 'what answered is not the exchange');
    }
    if (!response.ok) throw new Refused(response.status, json.code, json.message);
    return json;
  }
}

/** A line for the user; refusals stay until dismissed, everything else goes after a while. */
export function notice(text, isError = false) {
  const close = make(
    'button',
    { type: 'button', class: 'plain', 'aria-label': 'Dismiss', onclick: () => line.remove() },
    '✕',
  );
  const line = make(
    'li',
    { class: isError ? 'bad' : 'good', role: isError ? 'alert' : 'status' },
    make('span', {}, text),
    close,
  );
  const list = byId('notices');
  list.append(line);
  while (list.children.length > 5) list.firstElementChild.remove();
  if (!isError) setTimeout(() => line.remove(), 8_000);
}

/**
 * Wires the sign-in panel. `identity` says which user a development token is for and with which roles; `changed` is
 * called whenever there is another token, or none.
 */
export function signIn(session, identity, changed) {
  const show = why => {
    byId('sign-in').hidden = Boolean(session.token) && !why;
    byId('signed-in').hidden = !session.token;
    say(byId('sign-in-why'), why ?? '');
    say(byId('user'), session.user);
  };
  const set = token => {
    session.use(token);
    show();
    changed();
  };
  byId('use-development').addEventListener('click', async () => {
    const { user, roles } = identity();
    try {
      await session.develop(user, roles);
      set(session.token);
    } catch (e) {
      show(String(e));
    }
  });
  byId('use-token').addEventListener('submit', event => {
    event.preventDefault();
    const field = byId('token');
    const token = field.value.trim();
    field.value = '';
    if (token) set(token);
  });
  byId('sign-out').addEventListener('click', () => set(null));
  show();
  return show;
}
