// What a client remembers, and what every storage promises. This one is memory: good for a process, gone with it.

import { ChatdError, newMessageId } from './protocol.js';
import { firstOf } from './watermarks.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {import('./rows.js').Row} Row */
/** @typedef {import('./core.js').Write} Write */
/** @typedef {import('./core.js').Place} Place */
/**
 * @typedef {object} Unsent A send without a final answer, or with the refusal `failed`; one of `to` and `conv` is there.
 * @property {number} order grows with each send
 * @property {string} id
 * @property {string} [to]
 * @property {string} [conv]
 * @property {string} body
 * @property {number} at when it was written, Unix ms of this device
 * @property {string} [failed] the code with which the server refused it for good
 */
/** @typedef {{ conv: string, seq: number }} ReadMark */
/** @typedef {{ place: Place, rows: Row[], outbox: Unsent[], reads: ReadMark[] }} Saved `rows`: the oldest first */
/**
 * What a storage promises. Each call is one transaction: all of it is stored or nothing, in the order of the calls, and
 * another tab sees it whole. A call that could not store rejects with ChatdError `storage`.
 *
 * @typedef {object} Storage
 * @property {boolean} shared whether other tabs see the same
 * @property {string} name one name for what is the same storage
 * @property {() => Promise<void>} open
 * @property {() => Promise<void>} close
 * @property {() => Promise<Saved>} load
 * @property {() => Promise<Place>} place
 * @property {() => Promise<number>} lead from now on `write` takes only this number, which is higher than any before
 * @property {(write: Write, lead: number) => Promise<void>} write rejects with ChatdError `superseded` when another leads
 * @property {(entry: Omit<Unsent, 'order'>) => Promise<Unsent>} add stores a send as the last one; of an id that is in
 *   the outbox already it gives what is there. Rejects with `overloaded`: the outbox is full
 * @property {(after?: number) => Promise<Unsent[]>} outbox the sends of a higher order, in order
 * @property {(id: string) => Promise<Unsent | null>} retry a failed send goes to the end, under a new id if its own was
 *   used already; null: there is no such one
 * @property {(id: string) => Promise<boolean>} discard forgets a failed send; false: there is no such one
 * @property {(conv: string, seq: number) => Promise<void>} read the user has read up to there; the largest one holds
 * @property {() => Promise<ReadMark[]>} reads what `read` stored and the server has not confirmed
 * @property {(conv: string, page: { before: number, limit: number }) => Promise<Entry[]>} messages the entries that end
 *   right before a seq and have no gap, at most so many, ascending
 * @property {(conv: string, entries: Entry[], incarnation: string | undefined) => Promise<void>} keep stores a page of
 *   older messages; nothing if the history is another one by now
 * @property {() => Promise<void>} clear forgets everything, the outbox too
 */

export const OUTBOX_MESSAGES_MAX = 10_000;
export const KEPT_MESSAGES_MAX = 1_000;

/** The entries without a gap that end right before a seq. @param {Entry[]} entries ascending @param {number} before */
export function withoutGap(entries, before) {
  let from = entries.length;
  for (let next = before - 1; from > 0 && entries[from - 1].seq === next; from--) next = firstOf(entries[from - 1]) - 1;
  return entries.slice(from);
}

/**
 * Memory: it keeps the newest 1,000 messages of a conversation, or so many as are given.
 * @param {{ messagesMax?: number, shared?: boolean }} [options] `shared`: several clients of this process are given it, as tabs
 * @returns {Storage}
 */
export const memoryStorage = ({ messagesMax = KEPT_MESSAGES_MAX, shared = false } = {}) => new MemoryStorage(messagesMax, shared);

/** @implements {Storage} */
class MemoryStorage {
  name = newMessageId();
  #messagesMax;
  #lead = 0;
  #order = 0;
  /** @type {Place} */
  #place = {};
  /** @type {Map<string, Row>} */
  #rows = new Map();
  /** @type {Map<string, Entry[]>} */
  #logs = new Map();
  /** @type {Map<string, Unsent>} */
  #outbox = new Map();
  /** @type {Map<string, number>} */
  #reads = new Map();

  /** @param {number} messagesMax @param {boolean} shared */
  constructor(messagesMax, shared) {
    this.#messagesMax = messagesMax;
    this.shared = shared;
  }

  async open() {}

  async close() {}

  async load() {
    const rows = [...this.#rows.values()].sort((one, other) => one.updated - other.updated);
    return { place: { ...this.#place }, rows, outbox: await this.outbox(), reads: await this.reads() };
  }

  async place() {
    return { ...this.#place };
  }

  async lead() {
    return ++this.#lead;
  }

  /** @param {Write} write @param {number} lead */
  async write({ reset, place, messages, rows, answered, failed, reads }, lead) {
    if (lead !== this.#lead) throw new ChatdError('superseded', 'another client uses this storage');
    if (reset) {
      for (const of of [this.#rows, this.#logs, this.#reads]) of.clear();
      this.#place = {};
    }
    Object.assign(this.#place, place);
    for (const [conv, entries] of messages) this.#put(conv, entries);
    for (const row of rows) this.#rows.set(row.conv, row);
    if (answered.length || failed.length) this.#answered(new Set(answered), new Map(failed.map((f) => [f.order, f.code])));
    for (const { conv, seq } of reads) if ((this.#reads.get(conv) ?? 0) <= seq) this.#reads.delete(conv);
  }

  /** @param {Set<number>} answered @param {Map<number, string>} failed */
  #answered(answered, failed) {
    for (const entry of this.#outbox.values()) {
      const code = failed.get(entry.order);
      if (answered.has(entry.order)) this.#outbox.delete(entry.id);
      else if (code !== undefined) this.#outbox.set(entry.id, { ...entry, failed: code });
    }
  }

  /** @param {Omit<Unsent, 'order'>} entry */
  async add(entry) {
    const known = this.#outbox.get(entry.id);
    if (known) return known;
    if (this.#outbox.size >= OUTBOX_MESSAGES_MAX) throw outboxFull();
    const stored = { ...entry, order: ++this.#order };
    this.#outbox.set(entry.id, stored);
    return stored;
  }

  async outbox(after = 0) {
    return [...this.#outbox.values()].filter(({ order }) => order > after).sort((one, other) => one.order - other.order);
  }

  /** @param {string} id */
  async retry(id) {
    const entry = this.#outbox.get(id);
    if (!entry?.failed) return null;
    this.#outbox.delete(id);
    return this.add(again(entry));
  }

  /** @param {string} id */
  async discard(id) {
    return this.#outbox.get(id)?.failed !== undefined && this.#outbox.delete(id);
  }

  /** @param {string} conv @param {number} seq */
  async read(conv, seq) {
    this.#reads.set(conv, Math.max(seq, this.#reads.get(conv) ?? 0));
  }

  async reads() {
    return [...this.#reads].map(([conv, seq]) => ({ conv, seq }));
  }

  /** @param {string} conv @param {{ before: number, limit: number }} page */
  async messages(conv, { before, limit }) {
    const log = this.#logs.get(conv) ?? [];
    const end = lowerBound(log, before);
    return withoutGap(log.slice(Math.max(0, end - limit), end), before);
  }

  /** @param {string} conv @param {Entry[]} entries @param {string | undefined} incarnation */
  async keep(conv, entries, incarnation) {
    if (incarnation === this.#place.incarnation) this.#put(conv, entries);
  }

  async clear() {
    for (const of of [this.#rows, this.#logs, this.#reads, this.#outbox]) of.clear();
    this.#place = {};
    this.#lead++;
  }

  /** @param {string} conv @param {Entry[]} entries ascending */
  #put(conv, entries) {
    if (!entries.length) return;
    let log = this.#logs.get(conv);
    if (!log) this.#logs.set(conv, (log = []));
    const [from, to] = [lowerBound(log, entries[0].seq), lowerBound(log, entries[entries.length - 1].seq + 1)];
    log.splice(from, to - from, ...entries);
    if (log.length > this.#messagesMax * 1.25) log.splice(0, log.length - this.#messagesMax); // not at every message
  }
}

/** The index of the first entry that is not below a seq. @param {Entry[]} log @param {number} seq */
function lowerBound(log, seq) {
  let [low, high] = [0, log.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (log[middle].seq < seq) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The same send once more. @param {Unsent} entry @returns {Omit<Unsent, 'order'>} */
export function again({ order: _, failed, ...entry }) {
  return failed === 'id_reuse' ? { ...entry, id: newMessageId() } : entry;
}

export const outboxFull = () => new ChatdError('overloaded', `the outbox holds ${OUTBOX_MESSAGES_MAX} messages`, { temporary: true });
