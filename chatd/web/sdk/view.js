// What one tab shows: it takes what the engine tells, of this or another tab, and calls the tab's listeners, each
// message once and in its place. What a tab missed, for a leader went away in between, it reads from the storage.

import { ChatdError, report } from './protocol.js';
import { Rows, unreadOf } from './rows.js';
import { firstOf } from './watermarks.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {import('./rows.js').Row} Row */
/** @typedef {import('./storage.js').Unsent} Unsent */
/** @typedef {import('./engine.js').Told} Told */
/** @typedef {import('./engine.js').Status} Status */
/**
 * @typedef {object} Conversation
 * @property {string} conv
 * @property {string} peer
 * @property {number} head the last seq
 * @property {Entry | null} last the last message; its body may be cut after 200 characters
 * @property {number} unread messages of the peer that the user has not read
 * @property {number} delivered up to which the user's devices have it
 * @property {number} read up to which the user has read it
 * @property {number} peerDelivered up to which the peer has it
 * @property {number} peerRead up to which the peer has read it
 */
/**
 * @typedef {object} OutboxChange
 * @property {string} conv
 * @property {string} id
 * @property {'added' | 'sent' | 'failed' | 'discarded'} change
 * @property {number} [seq] sent: its place
 * @property {number} [ts]
 * @property {string} [failed] the code of the refusal
 */
/**
 * @typedef {object} Events What a listener is given, by the name of the event.
 * @property {import('./engine.js').State} state
 * @property {{ conv: string, message: Entry, mine: boolean }} message the next place of a log, once
 * @property {{ conv: string, user: string, delivered: number, read: number }} receipt a user's marks after they grew
 * @property {Conversation} conversation
 * @property {{ user: string, state: string, lastSeen?: number }} presence
 * @property {{ conv: string, user: string, on: boolean }} typing
 * @property {{ code: string, message: string }} signed_out the token is no longer good
 * @property {number} badge unread messages in all
 * @property {OutboxChange} outbox
 * @property {null} reset the server's history is another one: forget what was shown
 */
/** @typedef {{ seq: number, mark: 'peerDelivered' | 'peerRead', resolve: (found: unknown) => void, reject: (error: Error) => void }} Waiter */
/** @typedef {{ resolve: (place: Place) => void, reject: (error: Error) => void, conv: string }} Answer */
/** @typedef {{ conv: string, seq: number, ts: number }} Place */

const REPAIR_ITEMS = 200;
const EARLY_MAX = 10_000; // as many as an outbox holds

export class View {
  #user;
  #rows;
  /** @type {Map<string, number>} */
  #told = new Map();
  /** @type {Set<string>} */
  #repairing = new Set();
  #history = 0;
  /** @type {Map<string, Unsent & { conv: string }>} */
  #outbox = new Map();
  /** @type {Map<string, { user: string, state: string, lastSeen?: number }>} */
  #presence = new Map();
  /** @type {Map<string, Set<(event: any) => void>>} */
  #listeners = new Map();
  /** @type {Map<string, Answer>} */
  #answers = new Map();
  /** @type {Map<string, Set<Waiter>>} */
  #waiters = new Map();
  #loaded = false;
  /** @type {Set<string> | null} */
  #gone = null; // what left the outbox while it is being read
  /** @type {Map<string, string | null>} */
  #early = new Map();
  #badge = 0;
  /** @type {Conversation[] | null} */
  #sorted = null;
  /** @type {Status} */
  status = { state: 'offline', retryAtMs: null, error: null };

  /** @param {string} user @param {import('./storage.js').Storage} storage @param {(unsent: { to?: string, conv?: string }) => string} convOfUnsent */
  constructor(user, storage, convOfUnsent) {
    this.#user = user;
    this.storage = storage;
    this.#rows = new Rows(user);
    this.convOfUnsent = convOfUnsent;
  }

  // --- listeners ---

  /**
   * @template {keyof Events} Name
   * @param {Name} name
   * @param {(event: Events[Name]) => void} listener
   * @returns {() => void} ends it
   */
  on(name, listener) {
    let listeners = this.#listeners.get(name);
    if (!listeners) this.#listeners.set(name, (listeners = new Set()));
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** @template {keyof Events} Name @param {Name} name @param {Events[Name]} event */
  emit(name, event) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(event);
      } catch (error) {
        report(error); // a fault of one listener is its own
      }
    }
  }

  // --- what is known ---

  /** @returns {Conversation[]} */
  conversations() {
    this.#sorted ??= [...this.#rows.values()].filter(({ head }) => head > 0).sort(newestFirst).map(shown);
    return this.#sorted;
  }

  /** @param {string} conv */
  row(conv) {
    return this.#rows.get(conv);
  }

  get badge() {
    return this.#badge;
  }

  /** @param {string} user */
  presence(user) {
    return this.#presence.get(user) ?? null;
  }

  /** The unsent messages in order, of all conversations or of one. @param {string} [conv] */
  outbox(conv) {
    const entries = [...this.#outbox.values()].sort((one, other) => one.order - other.order);
    return conv === undefined ? entries : entries.filter((entry) => entry.conv === conv);
  }

  // --- what changes ---

  /** Read what is stored: at the start, and when another tab leads from now on, for words may have been lost. */
  async load() {
    const known = [...this.#outbox.values()];
    const gone = (this.#gone ??= new Set());
    const { rows, outbox } = await this.storage.load();
    if (this.#gone === gone) this.#gone = null;
    if (!this.#loaded) for (const { conv, seen } of rows) if (seen !== null) this.#told.set(conv, seen);
    this.#loaded = true;
    this.#grown(rows);
    for (const entry of outbox) if (!gone.has(entry.id)) this.added(entry);
    const held = new Set(outbox.map(({ id }) => id));
    for (const { id, conv } of known) if (!held.has(id) && this.#outbox.has(id)) await this.#missed(id, conv);
  }

  /** A send is in the outbox. @param {Unsent} entry */
  added(entry) {
    const early = this.#early.get(entry.id);
    this.#early.delete(entry.id);
    if (early === null) return; // another tab's connection was quicker than the word of it
    if (early !== undefined) entry = { ...entry, failed: early };
    const known = this.#outbox.get(entry.id);
    const conv = this.convOfUnsent(entry);
    this.#outbox.set(entry.id, { ...entry, conv });
    if (!known || known.order !== entry.order) this.emit('outbox', { conv, id: entry.id, change: 'added' });
    else if (entry.failed && !known.failed) this.#refused({ id: entry.id, code: entry.failed, message: entry.failed });
  }

  /** A failed send was given up, or goes on under another id. @param {string} id */
  discarded(id) {
    const entry = this.#outbox.get(id);
    this.#gone?.add(id);
    if (entry && this.#outbox.delete(id)) this.emit('outbox', { conv: entry.conv, id, change: 'discarded' });
  }

  /** @param {Told} told */
  apply({ reset, rows, messages, sent, failed, presence, typing, status }) {
    if (reset) this.#reset();
    if (rows) this.#grown(rows, new Map(messages));
    for (const note of sent ?? []) this.#settled(note);
    for (const note of failed ?? []) this.#refused(note);
    for (const note of presence ?? []) {
      this.#presence.set(note.user, note);
      this.emit('presence', note);
    }
    for (const note of typing ?? []) this.emit('typing', note);
    if (status) this.#stateOf(status);
  }

  /** @param {Row[]} rows @param {Map<string, Entry[]>} [messages] */
  #grown(rows, messages = new Map()) {
    const grown = [];
    for (const row of rows) {
      const old = this.#rows.get(row.conv);
      const merged = this.#rows.merge(row);
      if (merged) grown.push({ old, row: merged });
    }
    this.#sorted = null;
    for (const row of rows) this.#advance(row.conv, messages.get(row.conv) ?? []);
    for (const { old, row } of grown) {
      this.#marked(old, row);
      this.emit('conversation', shown(row));
    }
    if (this.#rows.badge !== this.#badge) this.emit('badge', (this.#badge = this.#rows.badge));
  }

  /** Tell the entries that come next; what is missing before them is read first. @param {string} conv @param {Entry[]} entries */
  #advance(conv, entries) {
    if (this.#repairing.has(conv)) return; // it goes on to the end
    const seen = this.#rows.get(conv)?.seen;
    if (seen === undefined || seen === null) return;
    if (!this.#told.has(conv) && entries.length) this.#told.set(conv, firstOf(entries[0]) - 1);
    const told = this.#told.get(conv) ?? 0;
    const next = entries.filter((entry) => entry.seq > told);
    if (next.length && firstOf(next[0]) <= told + 1) for (const entry of next) this.#tell(conv, entry);
    if ((this.#told.get(conv) ?? 0) < seen) this.#repair(conv);
  }

  /** @param {string} conv @param {Entry} entry */
  #tell(conv, entry) {
    this.#told.set(conv, entry.seq);
    const mine = entry.from === this.#user;
    if (mine && entry.id !== undefined) this.#answers.get(entry.id)?.resolve({ conv, seq: entry.seq, ts: entry.ts });
    this.emit('message', { conv, message: entry, mine });
  }

  /** @param {string} conv */
  async #repair(conv) {
    this.#repairing.add(conv);
    const history = this.#history;
    try {
      for (;;) {
        const told = this.#told.get(conv) ?? 0;
        const seen = this.#rows.get(conv)?.seen ?? 0;
        if (told >= seen) break;
        const before = Math.min(told + REPAIR_ITEMS, seen) + 1;
        const entries = await this.storage.messages(conv, { before, limit: REPAIR_ITEMS });
        if (history !== this.#history) return;
        for (const entry of entries) if (entry.seq > told) this.#tell(conv, entry);
        if (!entries.length) this.#told.set(conv, before - 1); // it is not held any more
      }
    } catch (error) {
      report(error);
    } finally {
      if (history === this.#history) this.#repairing.delete(conv);
    }
  }

  #reset() {
    this.#history++;
    this.#rows.clear();
    for (const of of [this.#told, this.#repairing]) of.clear();
    this.#sorted = null;
    for (const waiters of this.#waiters.values()) {
      for (const { reject } of waiters) reject(new ChatdError('reset', "the server's history is another one"));
    }
    this.#waiters.clear();
    this.emit('reset', null);
  }

  /** @param {Row | undefined} old @param {Row} row */
  #marked(old, row) {
    const { conv, peer, delivered, read, peerDelivered, peerRead } = row;
    if (delivered > (old?.delivered ?? 0) || read > (old?.read ?? 0)) {
      this.emit('receipt', { conv, user: this.#user, delivered, read });
    }
    if (peer === this.#user || (peerDelivered <= (old?.peerDelivered ?? 0) && peerRead <= (old?.peerRead ?? 0))) return;
    this.emit('receipt', { conv, user: peer, delivered: peerDelivered, read: peerRead });
    for (const waiter of this.#waiters.get(conv) ?? []) this.#look(conv, waiter);
  }

  // --- sends of this tab ---

  /** How the send of this id ends. @param {string} id @param {string} conv @returns {Promise<Place>} */
  answer(id, conv) {
    const known = this.#answers.get(id);
    return new Promise((resolve, reject) => {
      this.#answers.set(id, {
        conv,
        resolve: (place) => [known?.resolve(place), resolve(place)],
        reject: (error) => [known?.reject(error), reject(error)],
      });
    });
  }

  /** @param {string} id @param {Error} error */
  unanswered(id, error) {
    this.#answers.get(id)?.reject(error);
    this.#answers.delete(id);
  }

  /** When the peer's mark has come to a seq. @param {string} conv @param {number} seq @param {Waiter['mark']} mark */
  marked(conv, seq, mark) {
    return new Promise((resolve, reject) => {
      let waiters = this.#waiters.get(conv);
      if (!waiters) this.#waiters.set(conv, (waiters = new Set()));
      const waiter = { seq, mark, resolve, reject };
      waiters.add(waiter);
      this.#look(conv, waiter);
    });
  }

  /** @param {string} conv @param {Waiter} waiter */
  #look(conv, waiter) {
    const row = this.#rows.get(conv);
    const waiters = this.#waiters.get(conv);
    if (!row || row[waiter.mark] < waiter.seq) return;
    waiter.resolve(undefined);
    waiters?.delete(waiter);
    if (!waiters?.size) this.#waiters.delete(conv);
  }

  /** Nothing more comes. @param {ChatdError} error */
  end(error) {
    for (const { reject } of this.#answers.values()) reject(error);
    for (const waiters of this.#waiters.values()) for (const { reject } of waiters) reject(error);
    this.#answers.clear();
    this.#waiters.clear();
  }

  /** @param {{ id: string, conv: string, seq: number, ts: number }} note */
  #settled({ id, conv, seq, ts }) {
    const entry = this.#outbox.get(id);
    this.#gone?.add(id);
    if (!entry) this.#before(id, null);
    this.#outbox.delete(id);
    this.#answers.get(id)?.resolve({ conv, seq, ts });
    this.#answers.delete(id);
    if (entry) this.emit('outbox', { conv, id, change: 'sent', seq, ts });
  }

  /** @param {{ id: string, code: string, message: string }} note */
  #refused({ id, code, message }) {
    const entry = this.#outbox.get(id);
    if (entry) this.#outbox.set(id, { ...entry, failed: code });
    else this.#before(id, code);
    this.unanswered(id, new ChatdError(code, message));
    if (entry) this.emit('outbox', { conv: entry.conv, id, change: 'failed', failed: code });
  }

  /** An answer came before the word that the send is in the outbox. @param {string} id @param {string | null} failed */
  #before(id, failed) {
    this.#early.set(id, failed);
    for (const oldest of this.#early.keys()) {
      if (this.#early.size <= EARLY_MAX) break;
      this.#early.delete(oldest);
    }
  }

  /** A send left the outbox and this tab was not told how: it is in the log, or it was given up. @param {string} id @param {string} conv */
  async #missed(id, conv) {
    const seen = this.#rows.get(conv)?.seen ?? 0;
    const log = await this.storage.messages(conv, { before: seen + 1, limit: REPAIR_ITEMS });
    const found = log.find((entry) => entry.id === id);
    if (found) return this.#settled({ id, conv, seq: found.seq, ts: found.ts });
    this.discarded(id); // an answer that came twice moves no log: who waits for `sent` is told by the message itself
  }

  /** @param {Status} status */
  #stateOf(status) {
    const before = this.status;
    this.status = { ...status, limits: status.limits ?? before.limits };
    if (status.state !== 'live' && status.state !== 'catching_up') this.#presence.clear();
    if (before.state === status.state && before.retryAtMs === status.retryAtMs) return;
    this.emit('state', status.state);
    const code = status.state === 'stopped' ? status.error?.code : undefined;
    if (code === 'unauthenticated' || code === 'forbidden') this.emit('signed_out', { code, message: status.error?.message ?? '' });
  }
}

/** @param {Row} one @param {Row} other */
const newestFirst = (one, other) => other.updated - one.updated || (one.conv < other.conv ? -1 : 1);

/** @param {Row} row @returns {Conversation} */
function shown(row) {
  const { conv, peer, head, last, delivered, read, peerDelivered, peerRead } = row;
  return { conv, peer, head, last, unread: unreadOf(row), delivered, read, peerDelivered, peerRead };
}
