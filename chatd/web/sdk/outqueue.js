// What was sent and not yet answered, in order; and how long to wait. Pure: time and chance are arguments.
//
// A send stays here under its id until the server has answered it for good, so that it can be sent again after a lost
// connection: (sender, conversation, id) names one message for ever, repeating is safe. Source: docs/protocol.md §4.

import { convOf, isUser, sendFrame } from './protocol.js';

/** @typedef {() => number} Random a float in [0, 1) */
/**
 * @typedef {object} Pending One send without a final answer; one of `to` and `conv` is there.
 * @property {number} order grows with each send, also over restarts
 * @property {string} id
 * @property {string} [to]
 * @property {string} [conv]
 * @property {string} body
 */
/** @typedef {'retry' | 'failed' | 'reconnect'} Verdict */

export const BACKOFF_FIRST_MS = 500;
export const BACKOFF_MAX_MS = 30_000;
export const FLYING_MESSAGES_MAX = 128;

/** Exponential backoff with full jitter: a uniform part of 0.5, 1, 2 … 30 s, never less than was asked for. */
export class Backoff {
  #random;
  #ceilingMs = BACKOFF_FIRST_MS;

  /** @param {Random} random */
  constructor(random) {
    this.#random = random;
  }

  /** How long to wait before the next attempt, in ms. */
  nextMs(retryAfterMs = 0) {
    const waitMs = this.#random() * this.#ceilingMs;
    this.#ceilingMs = Math.min(2 * this.#ceilingMs, BACKOFF_MAX_MS);
    return Math.max(waitMs, retryAfterMs);
  }

  /** An attempt has succeeded: begin from 0.5 s again. */
  reset() {
    this.#ceilingMs = BACKOFF_FIRST_MS;
  }
}

/** The sends of one conversation: those flying were sent on this connection, those waiting (by order) were not. */
class Lane {
  /** @type {Pending[]} */
  waiting = [];
  /** @type {Map<string, Pending>} */
  flying = new Map();
  notBeforeMs = 0;
  refused = false;

  /** @param {Backoff} backoff */
  constructor(backoff) {
    this.backoff = backoff;
  }
}

/**
 * The sends that wait for an answer, ordered by conversation.
 *
 * At most `flyingMax` are sent ahead of their answers. While a send waits to be repeated, nothing later of its
 * conversation is sent; and it is repeated only when everything of its conversation that was sent after it has been
 * answered too, so that the server never sees a later send between a refused one and its repetition.
 *
 * A rate that is exceeded is the user's: then one is sent ahead at all, and with each that is stored one more. All of them
 * again at once would be refused again but for the first, a hundred frames for each message.
 */
export class OutQueue {
  #random;
  #flyingMax;
  #ahead; // that bound, or less while the server says "too fast"
  #me;
  /** @type {Map<string, Pending>} */
  #entries = new Map();
  /** @type {Map<string, Lane>} */
  #lanes = new Map();
  #flying = 0;
  #n = 0;

  /** @param {Random} random @param {string} me @param {number} [flyingMax] */
  constructor(random, me, flyingMax = FLYING_MESSAGES_MAX) {
    this.#random = random;
    this.#me = me;
    this.#flyingMax = this.#ahead = flyingMax;
  }

  get size() {
    return this.#entries.size;
  }

  /** The entries, in order. */
  values() {
    return this.#entries.values();
  }

  /** The entry of this id; undefined: it has been answered, or is of no send of this device. @param {string} id */
  get(id) {
    return this.#entries.get(id);
  }

  /** Queue an entry that is stored, in the order of `order`. @param {Pending} entry */
  add(entry) {
    if (this.#entries.has(entry.id)) return;
    this.#entries.set(entry.id, entry);
    this.#lane(entry).waiting.push(entry);
  }

  /** A new connection: nothing is on its way, everything is to be sent again, in order. */
  connected() {
    this.#n = this.#flying = 0;
    const old = this.#lanes;
    this.#lanes = new Map();
    for (const entry of this.#entries.values()) this.#lane(entry).waiting.push(entry);
    for (const [name, lane] of this.#lanes) {
      const before = old.get(name); // what the server asked for holds on the next connection too
      if (before) [lane.backoff, lane.notBeforeMs] = [before.backoff, before.notBeforeMs];
    }
  }

  /** The frames to send now, in this order; they count as sent. @param {number} nowMs */
  due(nowMs) {
    const frames = [];
    for (const lane of this.#lanes.values()) {
      if (nowMs < lane.notBeforeMs || (lane.refused && lane.flying.size)) continue;
      lane.refused = false;
      const batch = lane.waiting.splice(0, Math.max(this.#ahead - this.#flying, 0));
      this.#flying += batch.length;
      for (const entry of batch) {
        lane.flying.set(entry.id, entry);
        frames.push(sendFrame(entry, ++this.#n));
      }
    }
    return frames;
  }

  /** When `due` should be asked again although nothing happened, or null. */
  deadlineMs() {
    if (this.#flying >= this.#ahead) return null;
    let first = Infinity;
    for (const lane of this.#lanes.values()) {
      if (lane.waiting.length && !(lane.refused && lane.flying.size)) first = Math.min(first, lane.notBeforeMs);
    }
    return first === Infinity ? null : first;
  }

  /** The server has stored it: the entry, no longer queued; undefined: it was answered before. @param {string} id */
  sent(id) {
    const entry = this.#entries.get(id);
    if (entry) {
      this.#ahead = Math.min(this.#ahead + 1, this.#flyingMax);
      this.#lane(entry).backoff.reset();
      this.#remove(entry);
    }
    return entry;
  }

  /**
   * The server has refused it. `retry`: it will be sent again; `failed`: it is no longer queued; `reconnect`: the server
   * waits for a send that this queue does not have, and a new connection clears that.
   * @param {string} id
   * @param {{ code: string, temporary: boolean, retryAfterMs?: number }} refusal
   * @param {number} nowMs
   * @returns {Verdict}
   */
  refused(id, { code, temporary, retryAfterMs }, nowMs) {
    const entry = this.#entries.get(id);
    if (!entry) return 'failed';
    if (!temporary) {
      this.#remove(entry);
      return 'failed';
    }
    if (code === 'rate_limited') this.#ahead = 1;
    const lane = this.#lane(entry);
    if (lane.flying.delete(id)) {
      this.#flying--;
      const later = lane.waiting.findIndex((other) => other.order > entry.order);
      lane.waiting.splice(later < 0 ? lane.waiting.length : later, 0, entry);
    }
    lane.refused = true;
    const first = lane.waiting[0] === entry && [...lane.flying.values()].every((other) => other.order > entry.order);
    if (code === 'out_of_order' && !first) return 'retry'; // it waits for the one before it, which has its own time
    lane.notBeforeMs = nowMs + (retryAfterMs === undefined ? lane.backoff.nextMs() : Math.max(retryAfterMs, 1));
    return code === 'out_of_order' ? 'reconnect' : 'retry';
  }

  /** @param {Pending} entry */
  #remove(entry) {
    const lane = this.#lane(entry);
    this.#entries.delete(entry.id);
    if (lane.flying.delete(entry.id)) this.#flying--;
    else lane.waiting.splice(lane.waiting.indexOf(entry), 1);
    if (!lane.waiting.length && !lane.flying.size) this.#lanes.delete(laneOf(entry, this.#me));
  }

  /** @param {Pending} entry @returns {Lane} */
  #lane(entry) {
    const name = laneOf(entry, this.#me);
    let lane = this.#lanes.get(name);
    if (!lane) this.#lanes.set(name, (lane = new Lane(new Backoff(this.#random))));
    return lane;
  }
}

/**
 * A send "to bob" and one into the conversation with bob are in one order.
 * @param {{ to?: string, conv?: string }} entry
 * @param {string} me
 */
export function laneOf({ to, conv }, me) {
  return to === undefined ? (conv ?? '') : isUser(to) ? convOf(me, to) : to;
}
