// The part of a log that is on the screen: a bounded run of messages that moves along the log, a page at a time. Pure.

export const PAGE_MESSAGES = 100;
export const WINDOW_MESSAGES_MAX = 300;

/** @typedef {{ seq: number, id?: string, from?: string, ts: number, body?: string, gone?: string, first?: number }} Entry */

/** Whether nothing is before a page: a place may stand for many that are gone. @param {Entry[]} found */
const reachesStart = (found) => found.length === 0 || (found[0].first ?? found[0].seq) <= 1;

export class MessageWindow {
  /** @type {Entry[]} ascending by seq */
  items = [];
  /** Nothing is before the first item. */
  atStart = false;
  /** The last item is the log's last. */
  atEnd = false;
  #fetch;
  #head;
  #opened = 0;
  #busy = false;

  /**
   * @param {(before: number | undefined, limit: number) => Promise<Entry[]>} fetch entries below `before`, ascending
   * @param {() => number} head the newest known seq
   */
  constructor(fetch, head) {
    this.#fetch = fetch;
    this.#head = head;
  }

  /** Something is being fetched. */
  get busy() {
    return this.#busy;
  }

  /** Show the end. Returns: whether it changed anything. */
  openEnd() {
    return this.#open(undefined);
  }

  /** Show this message with what is around it. @param {number} seq */
  openAt(seq) {
    const before = seq + Math.floor(PAGE_MESSAGES / 2);
    return this.#open(before > this.#head() ? undefined : before);
  }

  /** @param {number | undefined} before */
  async #open(before) {
    const opened = ++this.#opened;
    this.#busy = true;
    try {
      const found = await this.#fetch(before, PAGE_MESSAGES);
      if (opened !== this.#opened) return false;
      this.items = found;
      this.atEnd = before === undefined && this.#holdsHead();
      this.atStart = reachesStart(found);
      return true;
    } finally {
      if (opened === this.#opened) this.#busy = false;
    }
  }

  // What came while a page was on its way is not in it: the end is reached when the newest known message is there.
  #holdsHead() {
    return (this.items.at(-1)?.seq ?? 0) >= this.#head();
  }

  /** The log is another one. */
  forget() {
    this.items = [];
    this.atEnd = false;
  }

  /** A page further back; what is then too much goes at the end. Returns: whether it changed anything. */
  older() {
    if (this.atStart || !this.items.length) return Promise.resolve(false);
    return this.#page(this.items[0].seq, (found) => {
      this.atStart = reachesStart(found);
      this.items = [...found, ...this.items];
      if (this.items.length <= WINDOW_MESSAGES_MAX) return;
      this.items.length = WINDOW_MESSAGES_MAX;
      this.atEnd = false;
    });
  }

  /** A page further on. */
  newer() {
    if (this.atEnd) return Promise.resolve(false);
    const last = this.items.at(-1)?.seq ?? 0;
    return this.#page(last + PAGE_MESSAGES + 1, (found) => {
      const fresh = found.filter(({ seq }) => seq > last);
      this.items = [...this.items, ...fresh];
      // Without a connection there may be less than is known of; what is missing comes in order, as new messages do.
      this.atEnd = fresh.length === 0 || this.#holdsHead();
      this.#trimStart();
    });
  }

  /** @param {number} before @param {(found: Entry[]) => void} put */
  async #page(before, put) {
    if (this.#busy) return false;
    const opened = this.#opened;
    this.#busy = true;
    try {
      const found = await this.#fetch(before, PAGE_MESSAGES);
      if (opened !== this.#opened) return false;
      put(found);
      return true;
    } finally {
      if (opened === this.#opened) this.#busy = false;
    }
  }

  /** A new message of the log. Returns: whether it belongs on the screen. @param {Entry} entry */
  add(entry) {
    const at = this.items.findIndex(({ seq }) => seq === entry.seq);
    if (at >= 0) {
      this.items = this.items.with(at, entry);
      return true;
    }
    if (!this.atEnd || entry.seq <= (this.items.at(-1)?.seq ?? 0)) return false;
    this.items = [...this.items, entry];
    return true;
  }

  /**
   * Up to which seq a read mark is due when everything up to `seq` was seen; 0: none is. One's own messages need none, but
   * what stands before them does, also when one wrote without having looked at it.
   * @param {number} seq @param {number} read the mark so far @param {string} me
   */
  toRead(seq, read, me) {
    if (seq <= read || !this.items.length) return 0;
    const theirs = this.items.findLast((entry) => entry.seq <= seq && entry.from !== me)?.seq ?? 0;
    const due = Math.max(theirs, Math.min(seq, this.items[0].seq - 1)); // nothing is known of what is above the window
    return due > read ? due : 0;
  }

  /** Somebody reads at the end: what is too much goes at the start. */
  settle() {
    const before = this.items.length;
    this.#trimStart();
    return this.items.length !== before;
  }

  /** New messages came while nobody looks at the end: it is let go rather than kept growing. */
  letGo() {
    if (this.items.length <= WINDOW_MESSAGES_MAX) return;
    this.items = this.items.slice(0, WINDOW_MESSAGES_MAX);
    this.atEnd = false;
  }

  #trimStart() {
    if (this.items.length <= WINDOW_MESSAGES_MAX) return;
    this.items = this.items.slice(-WINDOW_MESSAGES_MAX);
    this.atStart = false;
  }
}
