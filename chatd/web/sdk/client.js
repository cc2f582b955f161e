// The client as an application holds it.

import { Engine, realClock } from './engine.js';
import { Http } from './http.js';
import { ChatdError, WATCHES_MAX, checkSend, convOf, isUser, newMessageId } from './protocol.js';
import { laneOf } from './outqueue.js';
import { memoryStorage } from './storage.js';
import { View } from './view.js';
import { firstOf } from './watermarks.js';
import { httpBase } from './wire.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {import('./view.js').Events} Events */
/** @typedef {import('./view.js').Place} Place */
/**
 * @typedef {object} Options
 * @property {string} [url] the server's, as http://host:port; in a page: where the page comes from
 * @property {string} user whose device this is
 * @property {string} token of this device, from `login` or the host application
 * @property {import('./storage.js').Storage} [storage] what must outlive the page
 * @property {boolean} [tabs] whether the tabs of one browser that share a storage share one connection, too
 * @property {import('./wire.js').WebSocketClass} [WebSocket]
 * @property {typeof globalThis.fetch} [fetch]
 * @property {import('./engine.js').Clock} [clock]
 * @property {import('./outqueue.js').Random} [random]
 */
/**
 * @typedef {object} Sending One message on its way. Who does not look at a promise is not troubled by its rejection.
 * @property {string} id
 * @property {string} conv
 * @property {Promise<Place>} sent it is durable on the server, there; rejects with the ChatdError with which the server
 *   refused it for good (then `retry` or `discard` it), or `stopped`: the client ended first, the message stays stored
 * @property {Promise<Place>} delivered a device of the peer has it
 * @property {Promise<Place>} read the peer has read it
 */

export class Chatd {
  #user;
  #storage;
  #options;
  #view;
  /** @type {Engine | null} */
  #engine = null;
  /** @type {Set<string>} */
  #watched = new Set();
  /** @type {import('./hints.js').Status | null} */
  #status = null;
  #adding = Promise.resolve();
  #stopped = false;
  /** @type {Promise<void> | null} */
  #started = null;
  #become = {};

  /** @param {Options} options */
  constructor(options) {
    const { url = globalThis.location?.origin, user, token, clock = realClock, random = Math.random } = options;
    const WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!WebSocket) throw new TypeError('there is no WebSocket here: give one in options.WebSocket (Node 20: node --experimental-websocket)');
    if (!isUser(user)) throw new TypeError(`not a user: ${user}`);
    httpBase(url); // a wrong URL is told here and not at the first connection
    this.#user = user;
    this.#storage = options.storage ?? memoryStorage();
    this.#options = { url, user, token, clock, random, WebSocket };
    this.#view = new View(user, this.#storage, (unsent) => laneOf(unsent, user));
    this.http = new Http(url, token, { fetch: options.fetch });
    /** @type {Promise<void>} What is stored was read: from then on everything but `start` may be called. */
    this.ready = new Promise((resolve, reject) => (this.#become = { resolve, reject }));
    this.ready.catch(() => {});
  }

  /** Read what is stored, and connect in the background. Rejects as `ready`: ChatdError `storage`. */
  start() {
    this.#started ??= this.#start();
    return this.ready;
  }

  async #start() {
    const { resolve, reject } = /** @type {{ resolve: () => void, reject: (error: unknown) => void }} */ (this.#become);
    try {
      await this.#storage.open();
      await this.#view.load(await this.#storage.load());
      if (this.#stopped) return;
      const engine = new Engine({ ...this.#options, storage: this.#storage, tell: (notes) => this.#view.apply(notes) });
      this.#engine = engine;
      this.#say();
      globalThis.addEventListener?.('online', this.#onOnline);
      await engine.start();
      resolve();
    } catch (error) {
      reject(error);
    }
  }

  /** Acknowledge what came, and end. What is unsent stays stored. */
  async stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    globalThis.removeEventListener?.('online', this.#onOnline);
    await this.#started;
    await this.#adding;
    await this.#engine?.stop();
    this.#view.end(new ChatdError('stopped', 'the client has ended', { temporary: true }));
    await this.#storage.close();
  }

  #onOnline = () => this.#engine?.kick();

  // --- what is known ---

  /** The user whose device this is. */
  get user() {
    return this.#user;
  }

  /** `offline`, `connecting`, `catching_up`, `live` (all that was missing has come), `stopped`. */
  get state() {
    return this.#view.status.state;
  }

  /** When the next attempt to connect comes, Unix ms, or null. */
  get retryAtMs() {
    return this.#view.status.retryAtMs;
  }

  /** Why it stopped, or why the last connection ended, or null. */
  get error() {
    return this.#view.status.error;
  }

  /** Unread messages in all conversations. */
  get badge() {
    return this.#view.badge;
  }

  /**
   * Call a listener at each event of a kind: see `Events`.
   * @template {keyof Events} Name
   * @param {Name} name
   * @param {(event: Events[Name]) => void} listener
   * @returns {() => void} ends it
   */
  on(name, listener) {
    return this.#view.on(name, listener);
  }

  /** The conversations, newest first. */
  conversations() {
    return this.#view.conversations();
  }

  /** The name of the conversation with a user. @param {string} peer */
  convWith(peer) {
    return convOf(this.#user, peer);
  }

  /** What is known of a watched user now; null: nothing, as without a connection. @param {string} user */
  presence(user) {
    return this.#view.presence(user);
  }

  /** The unsent and the failed messages in order, of one conversation or of all. @param {string} [conv] */
  outbox(conv) {
    return this.#view.outbox(conv);
  }

  /**
   * The last messages of a conversation, or those before a seq: ascending, from the storage as far as they are there,
   * else from the server. Fewer than `limit` are not the beginning of the log: seq 1 is.
   * Rejects with ChatdError `unavailable`: none is stored, and the server does not answer.
   * @param {string} conv
   * @param {{ before?: number, limit?: number }} [page] `limit`: 1 … 200
   * @returns {Promise<Entry[]>}
   */
  async messages(conv, { before, limit = 50 } = {}) {
    const row = this.#view.row(conv);
    const end = before ?? (row && row.head > 0 ? (row.seen ?? row.head) + 1 : undefined);
    const held = end === undefined ? [] : await this.#storage.messages(conv, { before: end, limit });
    const first = held.length ? firstOf(held[0]) : end;
    if (held.length >= limit || first === 1) return held;
    const { incarnation } = await this.#storage.place();
    try {
      const older = await this.http.history(conv, { before: first, limit: limit - held.length });
      await this.#storage.keep(conv, older, incarnation);
      return [...older, ...held];
    } catch (error) {
      if (held.length) return held;
      throw error;
    }
  }

  // --- what the user does ---

  /**
   * Put a message into the outbox: once stored it is sent as soon as that is possible, also after the page was closed
   * and opened again, in the order of the calls, and is on the server once.
   * @param {string} to a user, or a conversation
   * @param {string} body
   * @param {{ id?: string }} [options] `id`: a UUID of the caller's own
   * @returns {Sending}
   */
  send(to, body, { id = newMessageId() } = {}) {
    const entry = { id, ...(isUser(to) ? { to } : { conv: to }), body, at: Date.now() };
    const conv = laneOf(entry, this.#user);
    const sent = this.#view.answer(id, conv);
    this.#adding = this.#adding.then(() => this.#add(entry));
    return sending(this.#view, id, conv, sent);
  }

  /** @param {Omit<import('./storage.js').Unsent, 'order'>} entry */
  async #add(entry) {
    try {
      if (this.#stopped) throw new ChatdError('stopped', 'the client has ended');
      checkSend(entry, this.#engine?.core.limits ?? null);
      await this.ready;
      this.#stored(await this.#storage.add(entry));
    } catch (error) {
      this.#view.unanswered(entry.id, /** @type {Error} */ (error));
    }
  }

  /** @param {import('./storage.js').Unsent} entry */
  #stored(entry) {
    this.#view.added(entry);
    this.#engine?.refresh('outbox');
  }

  /** Send a failed message again, as the last one. Rejects with ChatdError `not_found`: no such one failed. @param {string} id @returns {Promise<Sending>} */
  async retry(id) {
    const entry = await this.#storage.retry(id);
    if (!entry) throw new ChatdError('not_found', 'no such message failed');
    const conv = laneOf(entry, this.#user);
    const sent = this.#view.answer(entry.id, conv);
    if (entry.id !== id) this.#view.discarded(id);
    this.#stored(entry);
    return sending(this.#view, entry.id, conv, sent);
  }

  /** Forget a failed message. Rejects with ChatdError `not_found`: no such one failed. @param {string} id */
  async discard(id) {
    if (!(await this.#storage.discard(id))) throw new ChatdError('not_found', 'no such message failed');
    this.#view.discarded(id);
  }

  /** The user has read up to `seq`: stored, and told to the server now or after the next connection. @param {string} conv @param {number} seq */
  async read(conv, seq) {
    if (seq <= (this.#view.row(conv)?.read ?? 0)) return;
    await this.#storage.read(conv, seq);
    this.#engine?.refresh('reads');
  }

  /** The user writes, or no longer does: call it as often as keys are pressed; told at most once in 3 s. @param {string} conv */
  typing(conv, on = true) {
    this.#engine?.core.hints.typing(conv, on, this.#options.clock.nowMs());
    this.#engine?.wake();
  }

  /** Be told who of these is there, over reconnects; at most 1,000 in all. Who may not be watched stays silent. @param {...string} users */
  watch(...users) {
    if (new Set([...this.#watched, ...users]).size > WATCHES_MAX) throw new ChatdError('too_large', `more than ${WATCHES_MAX} watched users`);
    for (const user of users) this.#watched.add(user);
    this.#say();
  }

  /** Watch these no longer. @param {...string} users */
  unwatch(...users) {
    for (const user of users) this.#watched.delete(user);
    this.#say();
  }

  /** How this device is there. `inactive`: nobody looks at it; it is spared presence and typing. @param {'online' | 'away'} state */
  status(state, inactive = false) {
    this.#status = { state, inactive };
    this.#say();
  }

  #say() {
    this.#engine?.core.hints.watch(this.#watched);
    if (this.#status) this.#engine?.core.hints.status(this.#status);
    this.#engine?.wake();
  }

  /** End this device on the server, forget everything that is stored of it, and stop. */
  async signOut() {
    await this.http.logout().catch((error) => {
      if (!(error instanceof ChatdError && error.status === 401)) throw error; // it was ended elsewhere
    });
    await this.#engine?.stop();
    await this.#storage.clear();
    await this.stop();
  }
}

/** @param {View} view @param {string} id @param {string} conv @param {Promise<Place>} sent @returns {Sending} */
function sending(view, id, conv, sent) {
  /** @param {'peerDelivered' | 'peerRead'} mark */
  const after = (mark) => quiet(sent.then(async (place) => {
    await view.marked(place.conv, place.seq, mark);
    return place;
  }));
  return {
    id,
    conv,
    sent: quiet(sent),
    get delivered() {
      return after('peerDelivered');
    },
    get read() {
      return after('peerRead');
    },
  };
}

/** @template T @param {Promise<T>} promise */
function quiet(promise) {
  promise.catch(() => {});
  return promise;
}
