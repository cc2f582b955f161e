// Several tabs on one storage: one of them leads and holds the connection, the others hear from it. The lead is a Web
// Lock, so it passes on when its tab goes away, however that comes. What must not be lost is never said here alone: sends
// and read marks are in the storage before a word of them is.

/** @typedef {import('./hints.js').Status} PresenceStatus */
/** @typedef {{ watch: string[], status: PresenceStatus | null }} Wish what one tab wants of the connection */
/**
 * @typedef {{ t: 'told', told: import('./engine.js').Told }
 *   | { t: 'leads', to?: string, status: import('./engine.js').Status, presence: import('./hints.js').PresenceNote[] }
 *   | { t: 'who', tab: string }
 *   | { t: 'ping' } | { t: 'pong' } | { t: 'reads' } | { t: 'yield' } | { t: 'bye' }
 *   | { t: 'added', entry: import('./storage.js').Unsent }
 *   | { t: 'discarded', id: string }
 *   | { t: 'typing', conv: string, on: boolean }
 *   | { t: 'wish', tab: string, wish: Wish }} Word
 */
/**
 * @typedef {object} Deeds
 * @property {() => Promise<void>} lead this tab leads from now on
 * @property {() => void} lose it leads no more: another tab took over while this one slept
 * @property {(word: Word) => void} hear
 */

const SILENT_MS = 5_000;

/** Whether this is a place where tabs can share a connection. */
export const tabsCan = () => Boolean(globalThis.navigator?.locks && globalThis.BroadcastChannel);

export class Tabs {
  #name;
  #locks;
  #deeds;
  #clock;
  #channel;
  /** @type {AbortController | null} */
  #waiting = null;
  #release = () => {};
  #ended = false;
  /** @type {(() => void) | null} */
  #pong = null;
  id = crypto.randomUUID();
  leads = false;

  /** @param {string} name @param {Deeds} deeds @param {import('./engine.js').Clock} clock @param {LockManager} locks */
  constructor(name, deeds, clock, locks = navigator.locks) {
    this.#name = `chatd ${name}`;
    this.#locks = locks;
    this.#deeds = deeds;
    this.#clock = clock;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#heard(data);
    // held as long as this tab lives: the leader waits for it to know when a tab is gone
    this.#hold(`${this.#name} ${this.id}`, {}, () => new Promise(() => {}));
  }

  /** Lead as soon as nobody else does. @param {boolean} [steal] now: who leads does not answer */
  follow(steal = false) {
    this.#waiting?.abort();
    if (this.#ended) return;
    const waiting = (this.#waiting = new AbortController());
    this.#hold(this.#name, steal ? { steal } : { signal: waiting.signal }, async () => {
      if (this.#ended || this.#waiting !== waiting) return;
      this.#waiting = null;
      this.leads = true;
      const released = new Promise((resolve) => (this.#release = () => resolve(undefined)));
      this.#deeds.lead();
      await released;
    }).then((kept) => {
      if (kept || !this.leads) return;
      this.leads = false;
      this.#deeds.lose();
    });
    if (!steal) this.post({ t: 'who', tab: this.id });
  }

  /** Lead no more. */
  resign() {
    this.leads = false;
    this.#release();
  }

  /** Somebody looks at this tab: if the leader does not answer, its tab sleeps, and this one takes over. */
  check() {
    if (this.leads || this.#ended || this.#pong) return;
    const give_up = this.#clock.after(SILENT_MS, () => {
      this.#pong = null;
      this.follow(true);
    });
    this.#pong = () => {
      give_up();
      this.#pong = null;
    };
    this.post({ t: 'ping' });
  }

  /** Call when a tab is gone. @param {string} tab @param {() => void} call */
  whenGone(tab, call) {
    this.#hold(`${this.#name} ${tab}`, {}, async () => call());
  }

  /** Tell all other tabs. @param {Word} word */
  post(word) {
    if (!this.#ended) this.#channel.postMessage(word);
  }

  /** Neither lead nor wait for it; what others say is still heard. */
  withdraw() {
    this.#waiting?.abort();
    this.#waiting = null;
    this.#pong?.();
    if (this.leads) this.resign();
  }

  close() {
    this.withdraw();
    this.#ended = true;
    this.#channel.close();
  }

  /** @param {Word} word */
  #heard(word) {
    if (this.#ended) return;
    if (word.t === 'pong' || word.t === 'leads' || word.t === 'told') this.#pong?.();
    if (word.t === 'ping' && this.leads) this.post({ t: 'pong' });
    else this.#deeds.hear(word);
  }

  /** Whether the lock was kept to the end. @param {string} name @param {LockOptions} options @param {() => Promise<unknown>} work */
  async #hold(name, options, work) {
    try {
      await this.#locks.request(name, options, work);
      return true;
    } catch (error) {
      if (/** @type {Error} */ (error).name === 'AbortError') return false; // stolen, or not waited for any more
      throw error;
    }
  }
}

/** What all tabs together want of the connection. */
export class Wishes {
  /** @type {Map<string, Wish>} */
  #wishes = new Map();

  /** Returns: whether this tab had none before. @param {string} tab @param {Wish} wish */
  set(tab, wish) {
    const fresh = !this.#wishes.has(tab);
    this.#wishes.set(tab, wish);
    return fresh;
  }

  /** @param {string} tab */
  delete(tab) {
    this.#wishes.delete(tab);
  }

  /** @param {import('./hints.js').Hints} hints */
  tell(hints) {
    const wishes = [...this.#wishes.values()];
    hints.watch(wishes.flatMap(({ watch }) => watch));
    const said = wishes.map(({ status }) => status ?? { state: /** @type {const} */ ('online'), inactive: false });
    if (!wishes.some(({ status }) => status)) return;
    const online = said.some(({ state }) => state === 'online');
    hints.status({ state: online ? 'online' : 'away', inactive: said.every(({ inactive }) => inactive) });
  }
}
