// Where this device stands in each conversation's log: what makes each message be stored and told once. Pure.
//
// Three positions a conversation: `head`, the highest seq heard of; `seen`, up to which everything was taken in;
// `stored`, up to which it is in the storage. stored <= seen <= head.

/** @typedef {import('./protocol.js').Entry} Entry */

/** The lowest seq that an entry stands for. @param {Entry} entry */
export const firstOf = (entry) => entry.first ?? entry.seq;

/** The positions of all conversations, the most recently stored last. */
export class Watermarks {
  /** @type {Map<string, number>} */
  #head = new Map();
  /** @type {Map<string, number>} */
  #seen = new Map();
  /** @type {Map<string, number>} */
  #stored = new Map();
  /** @type {Map<string, number>} */
  #unplaced = new Map();
  /** @type {Set<string>} */
  #behind = new Set();

  /** A position that an earlier run has stored; oldest first. @param {string} conv @param {number} stored */
  load(conv, stored) {
    for (const positions of [this.#stored, this.#seen, this.#head]) positions.set(conv, stored);
  }

  /** Up to which seq this conversation was taken in; undefined when nothing is known of it. @param {string} conv */
  seen(conv) {
    return this.#seen.get(conv);
  }

  /**
   * The entries that come next; the rest is known already or is to be fetched. The first ones of an unknown conversation
   * say where its log begins for this device; a fetched page says nothing of that kind.
   * @param {string} conv
   * @param {Entry[]} entries ascending in seq
   */
  messages(conv, entries, fetched = false) {
    if (!entries.length) return [];
    if (!this.#seen.has(conv) && !fetched) {
      const first = firstOf(entries[0]);
      this.#seen.set(conv, Math.min(first, this.#unplaced.get(conv) ?? first) - 1);
      this.#unplaced.delete(conv);
    }
    let seen = this.#seen.get(conv) ?? 0;
    const accepted = [];
    for (const entry of entries) {
      if (entry.seq <= seen) continue;
      if (firstOf(entry) > seen + 1) break;
      accepted.push(entry.first === undefined ? entry : { ...entry, first: seen + 1 });
      seen = entry.seq;
    }
    this.#seen.set(conv, seen);
    this.#heard(conv, entries[entries.length - 1].seq);
    return accepted;
  }

  /**
   * Whether this device's own message comes next; if not, its place is to be fetched. In an unknown conversation it is
   * the beginning of the log, but not while catch-up may still bring an earlier one: then `caughtUp` places it.
   * @param {string} conv
   * @param {number} seq
   * @param {{ caughtUp: boolean, held: boolean }} known `held`: the body is at hand
   */
  sent(conv, seq, { caughtUp, held }) {
    if (!this.#seen.has(conv)) {
      if (seq > 1 && !caughtUp) {
        if (!this.#unplaced.has(conv)) this.#unplaced.set(conv, seq);
        this.#heard(conv, seq);
        return false;
      }
      this.#seen.set(conv, seq - 1);
    }
    const next = held && seq === (this.#seen.get(conv) ?? 0) + 1;
    if (next) this.#seen.set(conv, seq);
    this.#heard(conv, seq);
    return next;
  }

  /**
   * Catch-up is over: what it did not bring begins with this device's own first message; and where it ended below the
   * listed head, this device has lost what it had acknowledged, and fetches it.
   * @param {Iterable<[conv: string, head: number]>} [listed]
   */
  caughtUp(listed = []) {
    for (const [conv, seq] of this.#unplaced) {
      if (!this.#seen.has(conv)) this.#seen.set(conv, seq - 1);
      this.#heard(conv, seq);
    }
    this.#unplaced.clear();
    for (const [conv, head] of listed) if (this.#seen.has(conv)) this.#heard(conv, head);
  }

  /** The conversations with a gap between what was taken in and what was heard of. */
  behind() {
    return [...this.#behind];
  }

  /** Everything up to `seq` is in the storage. @param {string} conv @param {number} seq */
  stored(conv, seq) {
    this.#stored.delete(conv);
    this.#stored.set(conv, seq);
  }

  /** The stored positions of the conversations that were stored last: what a hello may carry. @param {number} countMax */
  newest(countMax) {
    return Object.fromEntries([...this.#stored].slice(-countMax));
  }

  /** Another history: no position means anything there. */
  forget() {
    for (const positions of [this.#head, this.#seen, this.#stored, this.#unplaced, this.#behind]) positions.clear();
  }

  /** @param {string} conv @param {number} seq */
  #heard(conv, seq) {
    const head = Math.max(this.#head.get(conv) ?? 0, seq);
    this.#head.set(conv, head);
    if ((this.#seen.get(conv) ?? head) < head) this.#behind.add(conv);
    else this.#behind.delete(conv);
  }
}
