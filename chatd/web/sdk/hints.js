// Presence and typing on the client's side: what it wants to know, what it knows, and when that ends. Pure. Nothing of
// it is stored, and all that is known of others is forgotten with the connection.

import { TYPING_EVERY_MS, TYPING_MS, WATCHES_MAX, WATCH_USERS_MAX } from './protocol.js';

/** @typedef {import('./protocol.js').Ref} Ref */
/** @typedef {import('./protocol.js').ClientFrame} ClientFrame */
/** @typedef {{ user: string, state: 'online' | 'away' | 'offline', lastSeen?: number }} PresenceNote */
/** @typedef {{ conv: string, user: string, on: boolean }} TypingNote */
/** @typedef {{ state: 'online' | 'away', inactive: boolean }} Status */

const WATCH_AGAIN_MS = 2_000;
const TYPING_CONVERSATIONS_MAX = 1_000;

/** What one device watches and says of itself, over reconnects. */
export class Hints {
  /** @type {Set<string>} */
  #wanted = new Set();
  /** @type {Set<string>} */
  #unasked = new Set();
  /** @type {Map<Ref, string[]>} */
  #asked = new Map();
  /** @type {Set<string>} */
  #unwatch = new Set();
  /** @type {number | null} */
  #againMs = null;
  /** @type {Map<string, PresenceNote>} */
  #known = new Map();
  /** @type {Map<string, { conv: string, user: string, untilMs: number }>} */
  #typing = new Map();
  /** @type {Map<string, number>} */
  #typedMs = new Map();
  /** @type {Map<string, boolean>} */
  #say = new Map();
  /** @type {Status | null} */
  #status = null;
  #statusDue = false;
  #connected = false;

  /** What is known of the watched users now. */
  known() {
    return [...this.#known.values()];
  }

  /** These are watched from now on, and nobody else; no more than WATCHES_MAX of them. @param {Iterable<string>} users */
  watch(users) {
    const wanted = new Set([...new Set(users)].slice(0, WATCHES_MAX));
    for (const user of wanted) {
      if (!this.#wanted.has(user)) this.#unasked.add(user);
      this.#unwatch.delete(user);
    }
    for (const user of this.#wanted) {
      if (wanted.has(user)) continue;
      this.#unasked.delete(user);
      this.#known.delete(user);
      this.#unwatch.add(user);
    }
    this.#wanted = wanted;
  }

  /** How this device is there, now and after each reconnect. @param {Status} status */
  status(status) {
    if (this.#status?.state === status.state && this.#status.inactive === status.inactive) return;
    this.#status = status;
    this.#statusDue = true;
  }

  /**
   * The user writes, or no longer does. Without a connection, or too soon after the last time, it is dropped.
   * @param {string} conv @param {boolean} on @param {number} nowMs
   */
  typing(conv, on, nowMs) {
    const last = this.#typedMs.get(conv);
    if (!this.#connected || (last !== undefined && nowMs < last + TYPING_EVERY_MS)) return;
    this.#typedMs.delete(conv);
    this.#typedMs.set(conv, nowMs);
    for (const oldest of this.#typedMs.keys()) {
      if (this.#typedMs.size <= TYPING_CONVERSATIONS_MAX) break;
      this.#typedMs.delete(oldest);
    }
    this.#say.set(conv, on);
  }

  /** A session is open: everything is to be said again. */
  connected() {
    this.#connected = true;
    this.#unasked = new Set(this.#wanted);
    this.#unwatch.clear();
    this.#statusDue = this.#status !== null;
  }

  /** It is over. Returns: who no longer types, as far as anybody can know. @returns {TypingNote[]} */
  disconnected() {
    this.#connected = false;
    this.#againMs = null;
    for (const of of [this.#asked, this.#known, this.#typedMs, this.#say]) of.clear();
    const ended = [...this.#typing.values()].map(({ conv, user }) => ({ conv, user, on: false }));
    this.#typing.clear();
    return ended;
  }

  /** The frames to send now; they count as sent. @param {number} nowMs @param {() => number} nextRef */
  due(nowMs, nextRef) {
    /** @type {ClientFrame[]} */
    const frames = [];
    if (this.#statusDue && this.#status) frames.push({ type: 'status', ...this.#status });
    this.#statusDue = false;
    while (this.#unwatch.size) frames.push({ type: 'unwatch', users: takeSome(this.#unwatch) });
    if (this.#againMs === null || nowMs >= this.#againMs) {
      this.#againMs = null;
      while (this.#unasked.size) {
        const users = takeSome(this.#unasked);
        const ref = nextRef();
        this.#asked.set(ref, users);
        frames.push({ type: 'watch', users, ref });
      }
    }
    for (const [conv, on] of this.#say) frames.push({ type: 'typing', conv, on });
    this.#say.clear();
    return frames;
  }

  /** When something ends or is to be asked again, or Infinity. */
  deadlineMs() {
    const ends = [...this.#typing.values()].map(({ untilMs }) => untilMs);
    if (this.#againMs !== null && this.#unasked.size) ends.push(this.#againMs);
    return Math.min(...ends, Infinity);
  }

  /** Who has not been heard to type for so long that it has ended. @param {number} nowMs @returns {TypingNote[]} */
  expired(nowMs) {
    const ended = [];
    for (const [key, { conv, user, untilMs }] of this.#typing) {
      if (untilMs > nowMs) continue;
      this.#typing.delete(key);
      ended.push({ conv, user, on: false });
    }
    return ended;
  }

  /** The server tells who is there. Returns: what is new. @param {import('./protocol.js').Presence} frame */
  onPresence(frame) {
    if (frame.ref !== undefined) {
      const told = new Set(frame.states.map(({ user }) => user));
      for (const user of this.#asked.get(frame.ref) ?? []) if (!told.has(user)) this.#known.delete(user);
      this.#asked.delete(frame.ref);
    }
    /** @type {PresenceNote[]} */
    const news = [];
    for (const { user, state, last_seen } of frame.states) {
      const known = this.#known.get(user);
      if (!this.#wanted.has(user) || (known && known.state === state && known.lastSeen === last_seen)) continue;
      const note = { user, state, ...(last_seen === undefined ? {} : { lastSeen: last_seen }) };
      this.#known.set(user, note);
      news.push(note);
    }
    return news;
  }

  /** The peer types, or no longer does. Returns: what is new. @param {import('./protocol.js').Typing} frame @param {number} nowMs */
  onTyping({ conv, user, on }, nowMs) {
    const key = `${conv} ${user}`;
    const known = this.#typing.has(key);
    if (on && (known || this.#typing.size < TYPING_CONVERSATIONS_MAX)) {
      this.#typing.set(key, { conv, user, untilMs: nowMs + TYPING_MS });
    } else if (!on) {
      this.#typing.delete(key);
    }
    return known === on ? [] : [{ conv, user, on }];
  }

  /**
   * A message came: its sender no longer types; with the first one of a conversation its peer may be watched.
   * @param {string} conv @param {string} from @param {number} seq @param {string} peer
   * @returns {TypingNote[]}
   */
  onMessage(conv, from, seq, peer) {
    if (seq === 1 && this.#wanted.has(peer)) this.#unasked.add(peer);
    return this.#typing.delete(`${conv} ${from}`) ? [{ conv, user: from, on: false }] : [];
  }

  /** A frame with this ref was refused: it may have been one of ours. @param {Ref} ref @param {number} nowMs @param {boolean} temporary */
  refused(ref, nowMs, temporary) {
    const asked = this.#asked.get(ref);
    this.#asked.delete(ref);
    if (!asked || !temporary) return;
    for (const user of asked) if (this.#wanted.has(user)) this.#unasked.add(user);
    this.#againMs = nowMs + WATCH_AGAIN_MS;
  }
}

/** At most WATCH_USERS_MAX, taken out. @param {Set<string>} users */
function takeSome(users) {
  const some = [...users].slice(0, WATCH_USERS_MAX);
  for (const user of some) users.delete(user);
  return some;
}
