// One device's side of the protocol, without I/O: frames and time go in; frames, and what is to be stored and told, come
// out. `Engine` is the shell around it. Times are ms of any clock that only goes forward. Source: docs/protocol.md.

import { Hints } from './hints.js';
import { Backoff, OutQueue } from './outqueue.js';
import { PAGE_ITEMS_MAX, WATERMARKS_MAX, frameBytes, sendFrame } from './protocol.js';
import { Rows } from './rows.js';
import { Watermarks } from './watermarks.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {import('./protocol.js').Ref} Ref */
/** @typedef {import('./protocol.js').ClientFrame} ClientFrame */
/** @typedef {import('./protocol.js').ServerFrame} ServerFrame */
/** @typedef {import('./rows.js').Row} Row */
/** @typedef {import('./outqueue.js').Pending} Pending */
/** @typedef {{ incarnation?: string, since?: string }} Place the server's history, and how far of it this device knows */
/**
 * @typedef {object} Write What is to be stored together.
 * @property {boolean} reset another history: forget conversations, messages, reads and `since` first; keep the outbox
 * @property {Place} place
 * @property {[conv: string, entries: Entry[]][]} messages
 * @property {Row[]} rows
 * @property {number[]} answered `order` of sends that are on the server
 * @property {{ order: number, code: string }[]} failed sends that the server refused for good
 * @property {{ conv: string, seq: number }[]} reads read marks that the server has confirmed
 */
/**
 * @typedef {object} Notes What every tab is told, after it was stored.
 * @property {boolean} [reset]
 * @property {Row[]} [rows]
 * @property {[conv: string, entries: Entry[]][]} [messages]
 * @property {{ id: string, conv: string, seq: number, ts: number }[]} [sent]
 * @property {{ id: string, code: string, message: string }[]} [failed]
 * @property {import('./hints.js').PresenceNote[]} [presence]
 * @property {import('./hints.js').TypingNote[]} [typing]
 * @property {boolean} [live] all that was missing has come
 */
/** @typedef {{ write: Write | null, notes: Notes, history: number }} Changes `history`: changes with each reset */

export const FETCHES_MAX = 8;
export const UNSTORED_MESSAGES_MAX = 1_000;
export const PONG_MS = 10_000;

/** The state of one device. */
export class Core {
  #random;
  #me;
  #backoff;
  #watermarks = new Watermarks();
  /** @type {Place} */
  #place = {};
  #ref = 0;
  /** @type {Map<string, number>} */
  #acks = new Map();
  /** @type {Map<string, number>} */
  #reads = new Map();
  /** @type {Map<Ref, { conv: string, seq: number }>} */
  #reading = new Map();
  /** @type {Map<Ref, { conv: string, after: number }>} */
  #fetching = new Map();
  /** @type {Map<string, number>} */
  #notBeforeMs = new Map();
  /** @type {Map<string, number>} */
  #listed = new Map();
  #caughtUp = false;
  /** @type {string | null} */
  #sinceHeld = null;
  /** @type {number | null} */
  #leaveAtMs = null;
  #heardMs = 0;
  #pinged = false;
  #heartbeatMs = 0;
  #unstored = 0;
  #history = 0;
  /** @type {Set<string>} */
  #dirty = new Set();
  /** @type {Map<string, Entry[]>} */
  #messages = new Map();
  /** @type {Write} */
  #write = noWrite();
  /** @type {Notes} */
  #notes = {};
  /** @type {import('./protocol.js').Limits | null} */
  limits = null;

  /** @param {{ user: string, random: import('./outqueue.js').Random }} options */
  constructor({ user, random }) {
    this.#random = random;
    this.#me = user;
    this.#backoff = new Backoff(random);
    this.outbox = new OutQueue(random, user);
    this.rows = new Rows(user);
    this.hints = new Hints();
  }

  // --- the storage's side ---

  /** Take back what an earlier run stored; the rows with the oldest first. @param {{ place: Place, rows: Row[] }} saved */
  load({ place, rows }) {
    this.#place = place;
    for (const row of rows) {
      this.rows.merge(row);
      if (row.seen !== null) this.#watermarks.load(row.conv, row.seen);
    }
  }

  /** What is to be stored now and told then, or null; it is given once, and then told to `stored`. @returns {Changes | null} */
  unsaved() {
    const rows = [...this.#dirty].flatMap((conv) => this.rows.get(conv) ?? []);
    const messages = [...this.#messages];
    const write = { ...this.#write, rows, messages };
    const notes = this.#notes;
    if (rows.length) notes.rows = rows;
    if (messages.length) notes.messages = messages;
    this.#dirty.clear();
    this.#messages.clear();
    this.#write = noWrite();
    this.#notes = {};
    const stores = write.reset || Object.keys(write.place).length
      || [rows, messages, write.answered, write.failed, write.reads].some((items) => items.length);
    return stores || Object.keys(notes).length ? { write: stores ? write : null, notes, history: this.#history } : null;
  }

  /** It is stored: what came may be acknowledged. @param {Changes} changes */
  stored({ notes, history }) {
    if (history !== this.#history) return;
    for (const [conv, entries] of notes.messages ?? []) {
      const { seq } = entries[entries.length - 1];
      this.#unstored -= entries.length;
      this.#watermarks.stored(conv, seq);
      this.#acks.set(conv, seq);
    }
  }

  /** All that was missing has come. */
  get live() {
    return this.#caughtUp && this.#sinceHeld === null;
  }

  // --- the application's side ---

  /** The user has read up to `seq`: told to the server until it has confirmed it. @param {string} conv @param {number} seq */
  read(conv, seq) {
    const row = this.rows.get(conv);
    if (seq <= (this.#reads.get(conv) ?? 0)) return;
    this.#reads.set(conv, seq);
    if (row) this.#raise(conv, { read: Math.min(seq, row.head) });
  }

  // --- the connection's side ---

  /** The first frame of a connection. @param {string} token @param {string} agent @returns {ClientFrame} */
  hello(token, agent) {
    // a watermark acknowledges too: acks that the old connection lost need no repetition
    const watermarks = this.#watermarks.newest(WATERMARKS_MAX);
    return { type: 'hello', token, ...this.#place, ...(Object.keys(watermarks).length ? { watermarks } : {}), agent };
  }

  /** The session is open. @param {import('./protocol.js').Welcome} frame @param {number} nowMs */
  welcomed(frame, nowMs) {
    this.limits = frame.limits;
    this.#heardMs = nowMs;
    this.#pinged = false;
    this.#heartbeatMs = frame.heartbeat_s * 1000;
    if (frame.reset) {
      this.#watermarks.forget();
      this.rows.clear();
      for (const of of [this.#acks, this.#reads, this.#dirty, this.#messages]) of.clear();
      const { answered, failed } = this.#write;
      const { sent, failed: refused } = this.#notes;
      this.#write = { ...noWrite(), reset: true, answered, failed };
      this.#notes = { reset: true, ...(sent && { sent }), ...(refused && { failed: refused }) };
      this.#unstored = 0;
      this.#history++;
      this.#place = {};
    }
    if (this.#place.incarnation !== frame.incarnation) this.#placed({ incarnation: frame.incarnation });
    this.outbox.connected();
    this.hints.connected();
    for (const entry of this.outbox.values()) {
      if (frameBytes(sendFrame(entry, Number.MAX_SAFE_INTEGER)) <= frame.limits.frame_bytes_max) continue;
      this.#refused(entry, { code: 'too_large', message: 'it does not fit a frame of this server', temporary: false }, nowMs);
    }
  }

  /**
   * The connection is gone, or did not come about. Returns: how long to wait before the next attempt, and whether the
   * server asked for that.
   * @param {number} nowMs
   * @param {number} [retryAfterMs]
   */
  disconnected(nowMs, retryAfterMs) {
    const leaveAtMs = this.#leaveAtMs;
    const waitMs = leaveAtMs === null ? this.#backoff.nextMs(retryAfterMs) : Math.max(leaveAtMs - nowMs, 0);
    for (const of of [this.#fetching, this.#reading, this.#notBeforeMs, this.#listed]) of.clear();
    this.#leaveAtMs = this.#sinceHeld = null;
    this.#caughtUp = this.#pinged = false;
    this.#heartbeatMs = 0;
    this.#note('typing', this.hints.disconnected());
    return { waitMs, asked: leaveAtMs !== null || retryAfterMs !== undefined };
  }

  /** The frames to send now, in this order; they count as sent. @param {number} nowMs @returns {ClientFrame[]} */
  due(nowMs) {
    for (const [what, atMs] of this.#notBeforeMs) if (atMs <= nowMs) this.#notBeforeMs.delete(what);
    /** @type {ClientFrame[]} */
    const frames = [...this.#acks].map(([conv, seq]) => ({ type: 'ack', conv, seq }));
    this.#acks.clear();
    const underWay = new Set([...this.#reading.values()].map(({ conv }) => conv));
    for (const [conv, seq] of this.#reads) {
      if (underWay.has(conv) || this.#notBeforeMs.has(`read ${conv}`)) continue;
      const ref = ++this.#ref;
      this.#reading.set(ref, { conv, seq });
      frames.push({ type: 'read', conv, seq, ref });
    }
    frames.push(...this.#fetches(), ...this.outbox.due(nowMs), ...this.hints.due(nowMs, () => ++this.#ref));
    if (this.#heartbeatMs && !this.#pinged && nowMs >= this.#heardMs + this.#heartbeatMs) {
      this.#pinged = true;
      frames.push({ type: 'ping' });
    }
    return frames;
  }

  /** When `due`, `expired` and `leaves` should be asked again although nothing happened, or Infinity. */
  deadlineMs() {
    const alive = this.#heartbeatMs ? this.#heardMs + this.#heartbeatMs + (this.#pinged ? PONG_MS : 0) : Infinity;
    return Math.min(
      this.outbox.deadlineMs() ?? Infinity, this.hints.deadlineMs(), this.#leaveAtMs ?? Infinity, alive,
      ...this.#notBeforeMs.values(),
    );
  }

  /** End what has not been repeated. @param {number} nowMs */
  expired(nowMs) {
    this.#note('typing', this.hints.expired(nowMs));
  }

  /** Why this connection is of no more use at this time, or null. @param {number} nowMs */
  leaves(nowMs) {
    if (this.#leaveAtMs !== null && nowMs >= this.#leaveAtMs) return 'the server asked to reconnect';
    const silent = this.#pinged && nowMs >= this.#heardMs + this.#heartbeatMs + PONG_MS;
    return silent ? 'the server was silent' : null;
  }

  /** The network may be another one: ask the server whether it is there. @param {number} nowMs */
  probe(nowMs) {
    if (this.#heartbeatMs && !this.#pinged) this.#heardMs = Math.min(this.#heardMs, nowMs - this.#heartbeatMs);
  }

  /**
   * Take one frame of the server's, after welcome. Returns: why to leave this connection and come back, or null.
   * @param {ServerFrame} frame
   * @param {number} nowMs
   * @returns {string | null}
   */
  receive(frame, nowMs) {
    this.#heardMs = nowMs;
    this.#pinged = false;
    switch (frame.type) {
      case 'messages': return this.#onMessages(frame);
      case 'sent': this.#onSent(frame); break;
      case 'error': return this.#onError(frame, nowMs);
      case 'conversations':
        for (const row of frame.conversations) {
          if (this.rows.listed(row)) this.#dirty.add(row.conv);
          if (!this.#caughtUp) this.#listed.set(row.conv, row.head);
        }
        break;
      case 'receipt': {
        const { conv, user, delivered, read } = frame;
        this.#raise(conv, user === this.#me ? { delivered, read } : { peerDelivered: delivered, peerRead: read });
        break;
      }
      case 'presence': this.#note('presence', this.hints.onPresence(frame)); break;
      case 'typing': this.#note('typing', this.hints.onTyping(frame, nowMs)); break;
      case 'caught_up':
        this.#backoff.reset();
        this.#watermarks.caughtUp(this.#listed);
        this.#listed.clear();
        this.#caughtUp = true;
        this.#sinceHeld = frame.since;
        this.#releaseSince();
        break;
      case 'ok': {
        const reading = frame.ref === undefined ? undefined : this.#reading.get(frame.ref);
        if (reading) this.#readSettled(/** @type {Ref} */ (frame.ref), reading);
        break;
      }
      case 'goaway': this.#leaveAtMs = nowMs + this.#random() * frame.reconnect_ms; break;
      default: // pong: that it came is enough
    }
    return null;
  }

  // --- frames ---

  /** @param {import('./protocol.js').Messages} frame @returns {string | null} */
  #onMessages({ conv, messages, ref }) {
    const fetch = ref === undefined ? undefined : this.#fetching.get(ref);
    if (ref !== undefined && !fetch) return null; // of a request that nobody waits for
    const entries = this.#watermarks.messages(conv, messages, fetch !== undefined);
    for (const entry of entries) this.#noted(conv, entry);
    if (fetch && ref !== undefined) {
      this.#fetching.delete(ref);
      if (!entries.length && (this.#watermarks.seen(conv) ?? 0) === fetch.after) {
        return `history of ${conv} after ${fetch.after} does not go on at ${fetch.after + 1}`;
      }
    }
    this.#releaseSince();
    return null;
  }

  /** @param {import('./protocol.js').Sent} frame */
  #onSent({ id, conv, seq, ts, duplicate }) {
    const entry = this.outbox.sent(id);
    if (!duplicate) {
      // without the entry (an answer that came twice) there is no body: the place is fetched
      const next = this.#watermarks.sent(conv, seq, { caughtUp: this.#caughtUp, held: entry !== undefined });
      if (next && entry) this.#noted(conv, { seq, id, from: this.#me, body: entry.body, ts });
    }
    if (!entry) return;
    this.#write.answered.push(entry.order);
    this.#note('sent', [{ id, conv, seq, ts }]);
  }

  /** @param {import('./protocol.js').Refused} frame @param {number} nowMs @returns {string | null} */
  #onError(frame, nowMs) {
    const { ref, id, message, temporary, retry_after_ms } = frame;
    if (ref === undefined) {
      const entry = id === undefined ? undefined : this.outbox.get(id);
      return entry && this.#refused(entry, frame, nowMs) === 'reconnect' ? message : null;
    }
    const againMs = nowMs + Math.max(retry_after_ms ?? 1000, 1);
    const fetch = this.#fetching.get(ref);
    const reading = this.#reading.get(ref);
    if (fetch) {
      this.#fetching.delete(ref);
      if (!temporary) return `history of ${fetch.conv}: ${message}`;
      this.#notBeforeMs.set(`fetch ${fetch.conv}`, againMs);
    } else if (reading && temporary) {
      this.#reading.delete(ref);
      this.#notBeforeMs.set(`read ${reading.conv}`, againMs);
    } else if (reading) {
      this.#readSettled(ref, reading); // there is nothing to be read there, and nobody to be told
    } else {
      this.hints.refused(ref, nowMs, temporary);
    }
    return null;
  }

  // --- helpers ---

  /** @param {Pending} entry @param {Omit<import('./protocol.js').Refused, 'type'>} refusal @param {number} nowMs */
  #refused(entry, { code, message, temporary, retry_after_ms }, nowMs) {
    const verdict = this.outbox.refused(entry.id, { code, temporary, retryAfterMs: retry_after_ms }, nowMs);
    if (verdict === 'failed') {
      this.#write.failed.push({ order: entry.order, code });
      this.#note('failed', [{ id: entry.id, code, message }]);
    }
    return verdict;
  }

  /** A place of a log came next. @param {string} conv @param {Entry} entry */
  #noted(conv, entry) {
    const held = this.#messages.get(conv);
    if (held) held.push(entry);
    else this.#messages.set(conv, [entry]);
    this.#unstored++;
    this.rows.noted(conv, entry);
    this.#dirty.add(conv);
    if (entry.from === undefined) return;
    this.#note('typing', this.hints.onMessage(conv, entry.from, entry.seq, this.rows.get(conv)?.peer ?? ''));
  }

  /** @param {string} conv @param {Partial<import('./rows.js').Marks>} marks */
  #raise(conv, marks) {
    if (this.rows.raise(conv, marks)) this.#dirty.add(conv);
  }

  /** @param {Place} place */
  #placed(place) {
    Object.assign(this.#place, place);
    Object.assign(this.#write.place, place);
  }

  /**
   * @template {'sent' | 'failed' | 'presence' | 'typing'} Kind
   * @param {Kind} kind
   * @param {NonNullable<Notes[Kind]>} notes
   */
  #note(kind, notes) {
    if (notes.length) this.#notes[kind] = /** @type {Notes[Kind]} */ ([...(this.#notes[kind] ?? []), ...notes]);
  }

  /** One history page for each conversation with a gap, while what came is being stored fast enough. */
  #fetches() {
    /** @type {ClientFrame[]} */
    const frames = [];
    const underWay = new Set([...this.#fetching.values()].map(({ conv }) => conv));
    for (const conv of this.#watermarks.behind()) {
      const comes = this.#unstored + this.#fetching.size * PAGE_ITEMS_MAX;
      if (this.#fetching.size >= FETCHES_MAX || comes >= UNSTORED_MESSAGES_MAX) break;
      if (underWay.has(conv) || this.#notBeforeMs.has(`fetch ${conv}`)) continue;
      const ref = ++this.#ref;
      const after = this.#watermarks.seen(conv) ?? 0;
      this.#fetching.set(ref, { conv, after });
      frames.push({ type: 'history', conv, after, limit: PAGE_ITEMS_MAX, ref });
    }
    return frames;
  }

  /** The bookmark stands for everything before it: it waits until no log has a gap. */
  #releaseSince() {
    if (this.#sinceHeld === null || this.#watermarks.behind().length) return;
    this.#placed({ since: this.#sinceHeld });
    this.#sinceHeld = null;
    this.#notes.live = true;
  }

  /** @param {Ref} ref @param {{ conv: string, seq: number }} reading */
  #readSettled(ref, { conv, seq }) {
    this.#reading.delete(ref);
    this.#notBeforeMs.delete(`read ${conv}`);
    if (this.#reads.get(conv) === seq) this.#reads.delete(conv);
    this.#write.reads.push({ conv, seq });
  }
}

/** @returns {Write} */
const noWrite = () => ({ reset: false, place: {}, messages: [], rows: [], answered: [], failed: [], reads: [] });
