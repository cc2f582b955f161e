// The words of protocol version 1 and the codec of the server's frames. Source: docs/protocol.md.

/**
 * @typedef {object} Entry One place of a log.
 * @property {number} seq counts from 1 without a gap
 * @property {number} ts server time, Unix ms
 * @property {string} [id]
 * @property {string} [from]
 * @property {string} [body]
 * @property {'hidden' | 'deleted' | 'expired'} [gone] the message may not be seen any more: no id, from and body
 * @property {number} [first] with `gone`: the place stands for all of `first` … `seq`
 *
 * @typedef {string | number} Ref
 * @typedef {{ user: string, state: 'online' | 'away' | 'offline', last_seen?: number }} PresenceState
 * @typedef {object} Limits
 * @property {number} frame_bytes_max
 * @property {number} body_bytes_max
 * @property {number} window
 * @property {number} watermarks_max
 * @property {number} page_items_max
 * @property {number} initial_history
 *
 * @typedef {object} ListedRow
 * @property {string} conv
 * @property {string} peer
 * @property {number} head
 * @property {number} delivered
 * @property {number} read
 * @property {number} peer_delivered
 * @property {number} peer_read
 * @property {number} unread
 * @property {number} updated
 * @property {Entry} [last]
 *
 * @typedef {{ type: 'welcome', user: string, device: string, session: string, now: number, incarnation: string,
 *   reset: boolean, heartbeat_s: number, durability: string, limits: Limits, ref?: Ref }} Welcome
 * @typedef {{ type: 'sent', id: string, conv: string, seq: number, ts: number, duplicate?: boolean, ref?: Ref }} Sent
 * @typedef {{ type: 'messages', conv: string, messages: Entry[], more?: boolean, ref?: Ref }} Messages
 * @typedef {{ type: 'receipt', conv: string, user: string, delivered: number, read: number }} Receipt
 * @typedef {{ type: 'conversations', conversations: ListedRow[], cursor?: string, ref?: Ref }} Listing
 * @typedef {{ type: 'caught_up', since: string, ref?: Ref }} CaughtUp
 * @typedef {{ type: 'presence', states: PresenceState[], ref?: Ref }} Presence
 * @typedef {{ type: 'typing', conv: string, user: string, on: boolean }} Typing
 * @typedef {{ type: 'ok', ref?: Ref }} Ok
 * @typedef {{ type: 'pong', now: number, ref?: Ref }} Pong
 * @typedef {{ type: 'error', code: string, message: string, temporary: boolean, retry_after_ms?: number, id?: string,
 *   conv?: string, ref?: Ref }} Refused
 * @typedef {{ type: 'goaway', reason: string, reconnect_ms: number }} Goaway
 * @typedef {Welcome | Sent | Messages | Receipt | Listing | CaughtUp | Presence | Typing | Ok | Pong | Refused | Goaway}
 *   ServerFrame
 * @typedef {{ type: string, [field: string]: unknown }} ClientFrame
 */

export const SUBPROTOCOL = 'chatd.v1';
export const WS_PATH = '/v1/ws';
export const WATERMARKS_MAX = 1_000;
export const WATCHES_MAX = 1_000;
export const WATCH_USERS_MAX = 200;
export const PAGE_ITEMS_MAX = 200;
export const TYPING_MS = 6_000; // one who types counts as typing so long after the last word of it
export const TYPING_EVERY_MS = 3_000;
export const BODY_BYTES_MAX = 16_384; // until a server has told its own
export const FRAME_BYTES_MAX = 65_536;
const CONV_CHARS_MAX = 160;

/** Close codes after which connecting again is of no use. A code that is not known is not final: version 1 may grow. */
export const FINAL_CLOSES = new Set([1000, 1002, 1003, 1007, 1009, 4400, 4401, 4403, 4409]);
export const REPLACED = 4409;

/** What the server, the network or this client itself answers instead of doing what was asked. */
export class ChatdError extends Error {
  /**
   * @param {string} code of docs/protocol.md §3.4; `stopped`, `storage`: this client's own
   * @param {string} message
   * @param {{ temporary?: boolean, retryAfterMs?: number, status?: number, cause?: unknown }} [more] `temporary`: the
   *   same request may be repeated; `status`: the HTTP status, or the close code of the connection
   */
  constructor(code, message, { temporary = false, retryAfterMs, status, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'ChatdError';
    this.code = code;
    this.temporary = temporary;
    this.retryAfterMs = retryAfterMs;
    this.status = status;
  }
}

/** A fault of nobody who waits for an answer: told where the environment tells such. @param {unknown} error */
export function report(error) {
  if (typeof globalThis.reportError === 'function') globalThis.reportError(error);
  else queueMicrotask(() => { throw error; });
}

// --- names -------------------------------------------------------------------------------------------------

const USER = /^[a-z0-9][a-z0-9._-]{0,63}$/;

/** Whether a name has the form of a user name. @param {string} name */
export const isUser = (name) => USER.test(name);

/** The conversation of two users. @param {string} one @param {string} other */
export const convOf = (one, other) => (one <= other ? `${one}:${other}` : `${other}:${one}`);

/** The other user of a conversation, or null: `user` is not in it. @param {string} conv @param {string} user */
export function peerOf(conv, user) {
  const [one, other, ...more] = conv.split(':');
  if (more.length || !isUser(one) || other === undefined || !isUser(other)) return null;
  return one === user ? other : other === user ? one : null;
}

/** A new UUID of version 7, in lower-case canonical text. */
export function newMessageId(nowMs = Date.now()) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  for (let i = 0; i < 6; i++) bytes[i] = Math.floor(nowMs / 2 ** (8 * (5 - i))) % 256;
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** The frame of a send. @param {{ id: string, to?: string, conv?: string, body: string }} entry @param {number} n */
export function sendFrame({ id, to, conv, body }, n) {
  return { type: 'send', id, ...(to === undefined ? { conv } : { to }), body, n };
}

/** @param {string} text */
const bytesOf = (text) => new TextEncoder().encode(text).length;

/** How large a frame is, in bytes. @param {ClientFrame} frame */
export const frameBytes = (frame) => bytesOf(JSON.stringify(frame));

/**
 * Throws the ChatdError with which the server would refuse this send for its form.
 * @param {{ id: string, to?: string, conv?: string, body: string }} entry
 * @param {{ body_bytes_max: number, frame_bytes_max: number } | null} limits
 */
export function checkSend(entry, limits) {
  const { body, conv } = entry;
  if (conv !== undefined && !/^[\x21-\x7e]+$/.test(conv.slice(0, CONV_CHARS_MAX + 1))) {
    throw new ChatdError('bad_frame', `neither a user nor a conversation: ${conv}`);
  }
  if (conv !== undefined && conv.length > CONV_CHARS_MAX) throw new ChatdError('bad_frame', 'a conversation of that name');
  if (typeof body !== 'string' || body === '' || body.includes('\0')) {
    throw new ChatdError('bad_frame', 'a body has at least one character and no U+0000');
  }
  if (/\p{Surrogate}/u.test(body)) throw new ChatdError('bad_frame', 'a body has no lone surrogate');
  if (bytesOf(body) > (limits?.body_bytes_max ?? BODY_BYTES_MAX)) {
    throw new ChatdError('too_large', `a body of ${bytesOf(body)} bytes`);
  }
  if (frameBytes(sendFrame(entry, Number.MAX_SAFE_INTEGER)) > (limits?.frame_bytes_max ?? FRAME_BYTES_MAX)) {
    throw new ChatdError('too_large', 'the message does not fit a frame');
  }
}

// --- the codec: checks give the clean value, or throw ---------------------------------------------------------

/** @typedef {(value: unknown) => unknown} Check */

/** @param {(value: unknown) => boolean} holds @returns {Check} */
const that = (holds) => (value) => {
  if (!holds(value)) throw new ChatdError('bad_frame', `the server sent what is no frame: ${String(value).slice(0, 80)}`);
  return value;
};
const text = that((v) => typeof v === 'string');
const flag = that((v) => typeof v === 'boolean');
const count = that((v) => Number.isSafeInteger(v) && /** @type {number} */ (v) >= 0);
const seq = that((v) => Number.isSafeInteger(v) && /** @type {number} */ (v) >= 1);
const amount = that((v) => typeof v === 'number' && v >= 0);
const ref = that((v) => typeof v === 'string' || Number.isSafeInteger(v));
/** @param {string[]} words */
const oneOf = (...words) => that((v) => words.includes(/** @type {string} */ (v)));
const listed = that(Array.isArray);
const object = that((v) => typeof v === 'object' && v !== null && !Array.isArray(v));

/** @param {Check} check @returns {Check} */
const list = (check) => (value) => /** @type {unknown[]} */ (listed(value)).map(check);

/** The known fields; a name that ends in `?` may be absent or null. @param {Record<string, Check>} fields @returns {Check} */
const shape = (fields) => {
  const known = Object.entries(fields).map(([name, check]) => /** @type {const} */ ([name.replace('?', ''), check, name]));
  return (value) => {
    const given = /** @type {Record<string, unknown>} */ (object(value));
    /** @type {Record<string, unknown>} */
    const clean = {};
    for (const [name, check, written] of known) {
      const field = given[name];
      if (field !== undefined && field !== null) clean[name] = check(field);
      else if (written === name) throw new ChatdError('bad_frame', `the server sent a frame without ${name}`);
    }
    return clean;
  };
};

const entry = shape({
  seq, ts: count, 'id?': text, 'from?': text, 'body?': text, 'gone?': oneOf('hidden', 'deleted', 'expired'), 'first?': seq,
});
const row = shape({
  conv: text, peer: text, head: count, delivered: count, read: count, peer_delivered: count, peer_read: count,
  unread: count, updated: count, 'last?': entry,
});
const limits = shape({
  frame_bytes_max: count, body_bytes_max: count, window: count, 'watermarks_max?': count, 'page_items_max?': count,
  initial_history: count, 'watches_max?': count, 'watch_users_max?': count,
});
const state = shape({ user: text, state: oneOf('online', 'away', 'offline'), 'last_seen?': count });

/** @type {Record<string, Check>} */
const FRAMES = {
  welcome: shape({
    type: text, user: text, device: text, session: text, now: count, incarnation: text, reset: flag, heartbeat_s: amount,
    durability: oneOf('replicated', 'fsync', 'os', 'memory'), limits, 'ref?': ref,
  }),
  sent: shape({ type: text, id: text, conv: text, seq, ts: count, 'duplicate?': flag, 'ref?': ref }),
  messages: shape({ type: text, conv: text, messages: list(entry), 'more?': flag, 'ref?': ref }),
  receipt: shape({ type: text, conv: text, user: text, delivered: count, read: count }),
  conversations: shape({ type: text, conversations: list(row), 'cursor?': text, 'ref?': ref }),
  caught_up: shape({ type: text, since: text, 'ref?': ref }),
  presence: shape({ type: text, states: list(state), 'ref?': ref }),
  typing: shape({ type: text, conv: text, user: text, on: flag }),
  ok: shape({ type: text, 'ref?': ref }),
  pong: shape({ type: text, now: count, 'ref?': ref }),
  error: shape({
    type: text, code: text, message: text, temporary: flag, 'retry_after_ms?': amount, 'id?': text, 'conv?': text, 'ref?': ref,
  }),
  goaway: shape({ type: text, reason: text, reconnect_ms: amount }),
};

/** The known fields of some entries that came over HTTP. @param {unknown} entries @returns {Entry[]} */
export const cleanEntries = (entries) => /** @type {Entry[]} */ (list(entry)(entries));

/**
 * One frame of the server's, with the fields that this version knows; null: its type is of a later version.
 * Throws ChatdError `bad_frame`: the server is broken.
 * @param {unknown} data
 * @returns {ServerFrame | null}
 */
export function decode(data) {
  let value;
  try {
    value = object(JSON.parse(/** @type {string} */ (text(data))));
  } catch (cause) {
    throw cause instanceof ChatdError ? cause : new ChatdError('bad_frame', 'the server sent what is no JSON', { cause });
  }
  const type = /** @type {string} */ (text(/** @type {{ type?: unknown }} */ (value).type));
  return Object.hasOwn(FRAMES, type) ? /** @type {ServerFrame} */ (FRAMES[type](value)) : null;
}
