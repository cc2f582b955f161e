// The client as an application holds it.

import { Engine, realClock } from './engine.js';
import { Http } from './http.js';
import { indexedDbStorage } from './indexeddb.js';
import { ChatdError, WATCHES_MAX, checkSend, convOf, isUser, newMessageId, report } from './protocol.js';
import { laneOf } from './outqueue.js';
import { sending } from './sending.js';
import { memoryStorage } from './storage.js';
import { Tabs, Wishes, tabsCan } from './tabs.js';
import { View } from './view.js';
import { firstOf } from './watermarks.js';
import { httpBase } from './wire.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {import('./view.js').Events} Events */
/** @typedef {import('./sending.js').Sending} Sending */
/** @typedef {import('./tabs.js').Word} Word */
/**
 * @typedef {object} Options
 * @property {string} [url] the server's, as http://host:port; in a page: where the page comes from
 * @property {string} user whose device this is
 * @property {string} token of this device, from `login` or the host application
 * @property {import('./storage.js').Storage} [storage] what must outlive the page; in a browser IndexedDB, or memory where
 *   that is refused; in Node memory
 * @property {boolean} [tabs] whether the tabs of one browser that share a storage share one connection, too
 * @property {import('./wire.js').WebSocketClass} [WebSocket]
 * @property {typeof globalThis.fetch} [fetch]
 * @property {import('./engine.js').Clock} [clock]
 * @property {import('./outqueue.js').Random} [random]
 * @property {LockManager} [locks]
 */
export class Chatd {
  #user;
  #storage;
  #options;
  #view;
  /** @type {Engine | null} */
  #engine = null;
  /** @type {Tabs | null} */
  #tabs = null;
  #wishes = new Wishes();
  /** @type {Set<string>} */
  #watched = new Set();
  /** @type {import('./hints.js').Status | null} */
  #status = null;
  #adding = Promise.resolve();
  #stopped = false;
  /** @type {Promise<void> | null} */
  #started = null;
  /** @type {Word[] | null} */
  #unheard = []; // until what is stored was read
  #become = {};

  /** @param {Options} options */
  constructor(options) {
    const { url = globalThis.location?.origin, user, token, clock = realClock, random = Math.random } = options;
    const WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!WebSocket) throw new TypeError('there is no WebSocket here: give one in options.WebSocket (Node 20: node --experimental-websocket)');
    if (!isUser(user)) throw new TypeError(`not a user: ${user}`);
    const base = httpBase(url); // a wrong URL is told here and not at the first connection
    this.#user = user;
    const { storage = globalThis.indexedDB ? indexedDbStorage(`chatd ${base} ${user}`) : memoryStorage() } = options;
    this.#storage = storage;
    this.#options = { url, user, token, clock, random, WebSocket, given: options };
    this.#view = new View(user, storage, (unsent) => laneOf(unsent, user));
    this.http = new Http(url, token, { fetch: options.fetch });
    /** @type {Promise<void>} What is stored was read: from then on it is told, and `send` stores. */
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
      await this.#open();
      if (this.#stopped) throw new ChatdError('stopped', 'the client has ended');
      const { clock, given } = this.#options;
      if (given.tabs !== false && this.#storage.shared && (given.locks || tabsCan())) {
        const lose = () => this.#lose();
        this.#tabs = new Tabs(this.#storage.name, { lead: () => this.#lead(), lose, hear: (word) => this.#hear(word) }, clock, given.locks);
      }
      await this.#view.load();
      const unheard = this.#unheard ?? [];
      this.#unheard = null;
      for (const word of unheard) this.#hear(word);
      globalThis.addEventListener?.('online', this.#onOnline);
      globalThis.document?.addEventListener('visibilitychange', this.#onOnline);
      resolve();
      if (this.#tabs) this.#tabs.follow();
      else await this.#lead();
      if (globalThis.document?.visibilityState === 'visible') this.#tabs?.check();
    } catch (error) {
      reject(error);
    }
  }

  async #open() {
    try {
      await this.#storage.open();
    } catch (error) {
      if (this.#options.given.storage) throw error;
      this.#view.storage = this.#storage = memoryStorage(); // a private window, or no room: good for this page at least
    }
  }

  /** Acknowledge what came, and end. What is unsent stays stored. */
  async stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    globalThis.removeEventListener?.('online', this.#onOnline);
    globalThis.document?.removeEventListener('visibilitychange', this.#onOnline);
    await this.#started;
    await this.#adding;
    await this.#engine?.stop();
    this.#tabs?.close();
    this.#view.apply({ status: { state: 'stopped', retryAtMs: null, error: this.error } });
    this.#view.end(new ChatdError('stopped', 'the client has ended', { temporary: true }));
    await this.#storage.close();
  }

  /** Somebody looks at it, or the network is there again: try now. In a page this is called by itself. */
  looked() {
    this.#engine?.kick();
    this.#tabs?.check();
  }

  #onOnline = () => {
    if (globalThis.document?.visibilityState !== 'hidden') this.looked();
  };

  // --- tabs: this one leads, or hears from the one that does ---

  /** Hold the connection. */
  async #lead() {
    if (this.#stopped) return;
    /** @param {import('./engine.js').Told} told */
    const tell = (told) => {
      if (this.#engine !== engine) return; // another tab leads, and this one has followed it since
      this.#view.apply(this.#stopped ? { ...told, status: undefined } : told);
      if (!this.#stopped) this.#tabs?.post({ t: 'told', told });
    };
    const superseded = () => {
      if (this.#tabs) return this.#lose();
      const error = { code: 'superseded', message: 'another client uses this storage' };
      this.#view.apply({ status: { state: 'stopped', retryAtMs: null, error } });
    };
    const engine = new Engine({ ...this.#options, storage: this.#storage, tell, superseded });
    this.#engine = engine;
    this.#say();
    this.#tabs?.post({ t: 'leads', status: engine.status, presence: [] });
    if (this.#tabs) await this.#view.load().catch(() => {}); // the engine meets the same fault, and tells it
    if (this.#engine === engine && !this.#stopped) await engine.start();
  }

  /** Another tab leads. */
  #lose() {
    const engine = this.#engine;
    this.#engine = null;
    engine?.stop();
    this.#tabs?.resign();
    if (!this.#stopped) this.#tabs?.follow();
  }

  /** @param {Word} word */
  #hear(word) {
    if (this.#unheard) return void this.#unheard.push(word);
    if (this.#stopped) return;
    const engine = this.#engine;
    switch (word.t) {
      case 'told':
        if (engine) break; // the last words of a leader that slept
        this.#view.apply(word.told);
        if (word.told.status?.state === 'stopped') this.#tabs?.withdraw(); // it would end the same for this tab
        break;
      case 'leads':
        if (engine || (word.to !== undefined && word.to !== this.#tabs?.id)) break;
        if (word.status.state === 'stopped') {
          this.#tabs?.post({ t: 'yield' }); // this tab is newer, and its token may be, too
          break;
        }
        this.#view.apply({ status: word.status, presence: word.presence });
        this.#view.load().catch(report);
        this.#say();
        break;
      case 'who':
        if (engine) this.#tabs?.post({ t: 'leads', to: word.tab, status: engine.status, presence: engine.core.hints.known() });
        break;
      case 'added':
        this.#view.added(word.entry);
        engine?.refresh('outbox');
        break;
      case 'discarded': this.#view.discarded(word.id); break;
      case 'reads': engine?.refresh('reads'); break;
      case 'typing': this.#type(word.conv, word.on); break;
      case 'wish':
        if (!engine) break;
        if (this.#wishes.set(word.tab, word.wish)) this.#tabs?.whenGone(word.tab, () => this.#gone(word.tab));
        this.#wishes.tell(engine.core.hints);
        engine.wake();
        break;
      case 'yield':
        if (engine?.status.state === 'stopped') this.#tabs?.withdraw();
        break;
      case 'bye': this.#bye(); break;
      default: // ping and pong are between the tabs themselves
    }
  }

  /** @param {string} tab */
  #gone(tab) {
    this.#wishes.delete(tab);
    if (this.#engine) this.#wishes.tell(this.#engine.core.hints);
    this.#engine?.wake();
  }

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
    const stored = this.#adding.then(() => this.#add(entry));
    this.#adding = stored.catch(() => {});
    return sending(this.#view, { id, conv, stored, sent });
  }

  /** @param {Omit<import('./storage.js').Unsent, 'order'>} entry */
  async #add(entry) {
    try {
      if (this.#stopped) throw new ChatdError('stopped', 'the client has ended');
      checkSend(entry, this.#view.status.limits ?? null);
      await this.ready;
      this.#stored(await this.#storage.add(entry));
    } catch (error) {
      this.#view.unanswered(entry.id, /** @type {Error} */ (error));
      throw error;
    }
  }

  /** @param {import('./storage.js').Unsent} entry */
  #stored(entry) {
    this.#view.added(entry);
    this.#engine?.refresh('outbox');
    this.#tabs?.post({ t: 'added', entry });
  }

  /** Send a failed message again, as the last one. Rejects with ChatdError `not_found`: no such one failed. @param {string} id @returns {Promise<Sending>} */
  async retry(id) {
    const entry = await this.#storage.retry(id);
    if (!entry) throw new ChatdError('not_found', 'no such message failed');
    const conv = laneOf(entry, this.#user);
    const sent = this.#view.answer(entry.id, conv);
    if (entry.id !== id) this.#forgotten(id);
    this.#stored(entry);
    return sending(this.#view, { id: entry.id, conv, stored: Promise.resolve(), sent });
  }

  /** Forget a failed message. Rejects with ChatdError `not_found`: no such one failed. @param {string} id */
  async discard(id) {
    if (!(await this.#storage.discard(id))) throw new ChatdError('not_found', 'no such message failed');
    this.#forgotten(id);
  }

  /** @param {string} id */
  #forgotten(id) {
    this.#view.discarded(id);
    this.#tabs?.post({ t: 'discarded', id });
  }

  /** The user has read up to `seq`: stored, and told to the server now or after the next connection. @param {string} conv @param {number} seq */
  async read(conv, seq) {
    if (seq <= (this.#view.row(conv)?.read ?? 0)) return;
    await this.#storage.read(conv, seq);
    if (this.#engine) this.#engine.refresh('reads');
    else this.#tabs?.post({ t: 'reads' });
  }

  /** The user writes, or no longer does: call it as often as keys are pressed; told at most once in 3 s. @param {string} conv */
  typing(conv, on = true) {
    if (this.#engine) this.#type(conv, on);
    else this.#tabs?.post({ t: 'typing', conv, on });
  }

  /** @param {string} conv @param {boolean} on */
  #type(conv, on) {
    this.#engine?.core.hints.typing(conv, on, this.#options.clock.nowMs());
    this.#engine?.wake();
  }

  /** Be told who of these is there, over reconnects; at most 1,000 in all. Who may not be watched stays silent. @param {Iterable<string>} users */
  watch(users) {
    if (new Set([...this.#watched, ...users]).size > WATCHES_MAX) throw new ChatdError('too_large', `more than ${WATCHES_MAX} watched users`);
    for (const user of users) this.#watched.add(user);
    this.#say();
  }

  /** Watch these no longer. @param {Iterable<string>} users */
  unwatch(users) {
    for (const user of users) this.#watched.delete(user);
    this.#say();
  }

  /** How this device is there. `inactive`: nobody looks at it; it is spared presence and typing. @param {'online' | 'away'} state */
  status(state, inactive = false) {
    this.#status = { state, inactive };
    this.#say();
  }

  /** What this tab wants of the connection. */
  #say() {
    const wish = { watch: [...this.#watched], status: this.#status };
    const engine = this.#engine;
    if (!engine) return this.#tabs?.post({ t: 'wish', tab: this.#tabs.id, wish });
    this.#wishes.set('', wish);
    this.#wishes.tell(engine.core.hints);
    engine.wake();
  }

  /** End this device on the server, forget everything that is stored of it, and stop, in all tabs. */
  async signOut() {
    await this.http.logout().catch((error) => {
      if (!(error instanceof ChatdError && error.status === 401)) throw error; // it was ended elsewhere
    });
    this.#tabs?.post({ t: 'bye' });
    this.#tabs?.withdraw();
    await this.#engine?.stop();
    await this.#storage.clear();
    await this.#bye();
  }

  async #bye() {
    const error = { code: 'unauthenticated', message: 'signed out' };
    this.#view.apply({ status: { state: 'stopped', retryAtMs: null, error } });
    await this.stop();
  }
}
