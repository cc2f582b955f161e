// What is known of each conversation: heads, marks, unread, the last message. Everything only grows, so rows of
// different ages may be merged in any order. Pure.

import { peerOf } from './protocol.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {import('./protocol.js').ListedRow} ListedRow */
/** @typedef {{ delivered: number, read: number, peerDelivered: number, peerRead: number }} Marks user-level, of both sides */
/**
 * @typedef {object} Row
 * @property {string} conv
 * @property {string} peer
 * @property {number | null} seen up to which the log is held, without a gap; null: no message came yet
 * @property {number} head the last seq of the log
 * @property {number} floor up to which nothing is unread: the read mark or the last own message, raised by one for each
 *   message above it that is hidden
 * @property {number} delivered
 * @property {number} read
 * @property {number} peerDelivered
 * @property {number} peerRead
 * @property {number} updated Unix ms of the last message
 * @property {Entry | null} last the last message; its body may be cut
 */

export const PREVIEW_CHARS_MAX = 200;

/** How many messages of a conversation the user has not read. @param {{ head: number, floor: number }} row */
export const unreadOf = ({ head, floor }) => Math.max(0, head - floor);

/** An entry with no more of its body than a list shows; never half a character. @param {Entry} entry @returns {Entry} */
export function preview(entry) {
  const { body } = entry;
  if (body === undefined || body.length <= PREVIEW_CHARS_MAX) return entry;
  const cut = body.slice(0, PREVIEW_CHARS_MAX);
  return { ...entry, body: /[\ud800-\udbff]$/.test(cut) ? cut.slice(0, -1) : cut };
}

/** @param {string} conv @param {string} peer @returns {Row} */
const emptyRow = (conv, peer) => ({
  conv, peer, seen: null, head: 0, floor: 0, delivered: 0, read: 0, peerDelivered: 0, peerRead: 0, updated: 0, last: null,
});

const GROWING = /** @type {const} */ (['head', 'floor', 'updated', 'delivered', 'read', 'peerDelivered', 'peerRead']);

/** The rows of all conversations of one user. */
export class Rows {
  /** @type {Map<string, Row>} */
  #rows = new Map();
  #me;
  /** Unread messages in all. */
  badge = 0;

  /** @param {string} me */
  constructor(me) {
    this.#me = me;
  }

  /** @param {string} conv */
  get(conv) {
    return this.#rows.get(conv);
  }

  values() {
    return this.#rows.values();
  }

  clear() {
    this.#rows.clear();
    this.badge = 0;
  }

  /** Take in a row of this or another tab, or a stored one. Returns: the merged row, or null: nothing grew. @param {Row} row */
  merge(row) {
    const known = this.#rows.get(row.conv);
    const { last, seen, ...grows } = row;
    return this.#grow(row.conv, grows, { last, seen, peer: known?.peer || row.peer });
  }

  /** Take in a row of the server's. @param {ListedRow} row */
  listed(row) {
    const grows = {
      head: row.head, floor: row.head - row.unread, updated: row.updated, delivered: row.delivered, read: row.read,
      peerDelivered: row.peer_delivered, peerRead: row.peer_read,
    };
    return this.#grow(row.conv, grows, { last: row.last && preview(row.last), peer: row.peer });
  }

  /** An entry came next in a log: it is held from now on. @param {string} conv @param {Entry} entry */
  noted(conv, entry) {
    const { seq, ts, from } = entry;
    const old = this.#rows.get(conv) ?? emptyRow(conv, '');
    let { floor } = old;
    if (from === this.#me) floor = seq;
    else if (entry.gone === 'expired') floor = Math.max(floor, seq);
    else if (from === undefined && seq > old.head && seq > floor) floor++;
    const peer = old.peer || (peerOf(conv, this.#me) ?? (from !== this.#me ? from : undefined));
    return this.#grow(conv, { head: seq, floor, updated: ts, delivered: seq }, { last: preview(entry), seen: seq, peer });
  }

  /** Marks of a user grew, as far as they are above the known ones. @param {string} conv @param {Partial<Marks>} marks */
  raise(conv, marks) {
    return this.#grow(conv, { ...marks, floor: marks.read ?? 0 }, { peer: peerOf(conv, this.#me) ?? undefined });
  }

  /**
   * @param {string} conv
   * @param {Record<string, unknown>} grows numbers, of which the larger one holds
   * @param {{ last?: Entry | null, seen?: number | null, peer?: string }} more
   */
  #grow(conv, grows, { last, seen, peer }) {
    const old = this.#rows.get(conv) ?? emptyRow(conv, peer ?? '');
    /** @type {Row} */
    const row = { ...old, peer: old.peer || (peer ?? '') };
    let grew = !this.#rows.has(conv) || row.peer !== old.peer;
    if (row.peer === this.#me) {
      // notes to self: what this user has, the peer has
      grows = { ...grows, peerDelivered: grows.delivered ?? 0, peerRead: grows.read ?? 0 };
    }
    for (const name of GROWING) {
      const value = grows[name];
      if (typeof value === 'number' && value > row[name]) [row[name], grew] = [value, true];
    }
    if (last && last.seq > (row.last?.seq ?? 0)) [row.last, grew] = [last, true];
    if (seen !== undefined && seen !== null && seen > (row.seen ?? -1)) [row.seen, grew] = [seen, true];
    if (!grew) return null;
    this.badge += unreadOf(row) - unreadOf(old);
    this.#rows.set(conv, row);
    return row;
  }
}
