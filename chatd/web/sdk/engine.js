// What keeps one device connected and stored: the core with a socket, a storage and a clock around it. Of several tabs
// only the leader runs one.

import { Core } from './core.js';
import { ChatdError, FINAL_CLOSES, REPLACED, decode } from './protocol.js';
import { Wire, socketUrl } from './wire.js';

/** @typedef {'offline' | 'connecting' | 'catching_up' | 'live' | 'stopped'} State */
/**
 * @typedef {object} Status
 * @property {State} state
 * @property {number | null} retryAtMs when the next attempt comes, Unix ms; null: not waiting
 * @property {{ code: string, message: string, status?: number } | null} error why it stopped, or was refused last
 * @property {import('./protocol.js').Limits | null} [limits] of the server, once it has told them
 */
/** @typedef {import('./core.js').Notes & { status?: Status }} Told */
/** @typedef {{ nowMs: () => number, after: (ms: number, call: () => void) => () => void }} Clock `after` gives its own end */
/**
 * @typedef {object} EngineOptions
 * @property {string} url
 * @property {string} token
 * @property {string} user
 * @property {import('./storage.js').Storage} storage open
 * @property {import('./wire.js').WebSocketClass} WebSocket
 * @property {Clock} clock
 * @property {import('./outqueue.js').Random} random
 * @property {(notes: Told) => void} tell is given what changed, after it was stored
 * @property {() => void} [superseded] another client leads this storage by now: this one has ended
 */

export const AGENT = 'chatd-js';
const HANDSHAKE_MS = 60_000; // a server to which thousands come back at once lets each wait for its turn
const WELCOME_MS = 10_000; // after that
const IMPATIENT_MS = 10_000; // a handshake that takes longer is begun anew when the network may be another one
const LATE_HELLO_MS = 10_000; // so long after a loss, at the latest, the server reads what the lost connection still said

/** @type {Clock} */
export const realClock = {
  nowMs: () => performance.now(),
  after(ms, call) {
    const timer = setTimeout(call, ms);
    return () => clearTimeout(timer);
  },
};

const nothing = () => {};

export class Engine {
  #options;
  #lead = 0;
  #order = 0;
  /** @type {Wire | null} */
  #wire = null;
  #open = false;
  #connectingMs = 0; // since then
  #lateUntilMs = -Infinity;
  #asked = false;
  #wakeUp = nothing; // ends the timer of what is due next on this connection
  #retry = nothing; // ends the wait for the next attempt
  #flushing = false;
  /** @type {(() => void)[]} */
  #flushed = [];
  #stale = { outbox: false, reads: false };
  #refreshing = false;
  #loaded = false;
  #ended = false;
  /** @type {Status} */
  status = { state: 'offline', retryAtMs: null, error: null };

  /** @param {EngineOptions} options */
  constructor(options) {
    this.#options = options;
    this.core = new Core({ user: options.user, random: options.random });
  }

  /** Take over what is stored, and begin to connect. A fault of the storage is told as a status. */
  async start() {
    const { storage } = this.#options;
    try {
      this.#lead = await storage.lead();
      const saved = await storage.load();
      this.core.load(saved);
      this.#queue(saved.outbox);
      for (const { conv, seq } of saved.reads) this.core.read(conv, seq);
      if (!this.#ended) this.#connect();
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#loaded = true;
    }
    this.refresh('outbox'); // what came while it was read
    this.refresh('reads');
  }

  /** Store and acknowledge what came, and say goodbye. */
  async stop() {
    if (this.#flushing) await new Promise((resolve) => this.#flushed.push(() => resolve(null)));
    this.#pump();
    this.#end({ state: 'stopped', retryAtMs: null, error: null });
  }

  /** Another tab, or this one, has stored sends or read marks. @param {'outbox' | 'reads'} what */
  async refresh(what) {
    this.#stale[what] = true;
    if (this.#refreshing || !this.#loaded || this.#ended) return;
    this.#refreshing = true;
    const { storage } = this.#options;
    try {
      while (!this.#ended && (this.#stale.outbox || this.#stale.reads)) {
        const { outbox, reads } = this.#stale;
        this.#stale = { outbox: false, reads: false };
        if (outbox) this.#queue(await storage.outbox(this.#order));
        if (reads) for (const { conv, seq } of await storage.reads()) this.core.read(conv, seq);
        this.#pump();
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#refreshing = false;
    }
  }

  /** Something was asked of the core: send what is due. */
  wake() {
    this.#pump();
  }

  /** The network may be there again, or be another one: look now, unless the server asked to wait. */
  kick() {
    if (this.#ended) return;
    if (this.#wire && !this.#open && this.#options.clock.nowMs() >= this.#connectingMs + IMPATIENT_MS) {
      this.#wire.close(1006, 'the network may be another one');
    }
    if (this.#wire) {
      this.core.probe(this.#options.clock.nowMs());
      this.#pump();
    } else if (!this.#asked) {
      this.#retry();
      this.#connect();
    }
  }

  /** @param {import('./storage.js').Unsent[]} entries */
  #queue(entries) {
    for (const entry of entries) {
      this.#order = entry.order;
      if (entry.failed === undefined) this.core.outbox.add(entry);
    }
  }

  // --- the connection ---

  #connect() {
    const { url, user, token, WebSocket, clock } = this.#options;
    this.#retry = nothing;
    this.#open = false;
    this.#connectingMs = clock.nowMs();
    this.#tellStatus({ state: 'connecting', retryAtMs: null, error: this.status.error });
    /** @type {{ message: string, retryAfterMs?: number } | null} */
    let refusal = null;
    let overdue = clock.after(HANDSHAKE_MS, () => wire.close(1006, 'the server does not answer'));
    const wire = new Wire(WebSocket, socketUrl(url, user), {
      open: () => {
        overdue();
        overdue = clock.after(WELCOME_MS, () => wire.close(4408, 'no welcome in time'));
        wire.send(this.core.hello(token, AGENT));
      },
      frame: (data) => {
        const frame = this.#decoded(data);
        if (!frame) return;
        if (this.#open) return this.#receive(frame);
        if (frame.type === 'welcome') {
          overdue();
          this.#welcomed(frame);
        } else if (frame.type === 'error') {
          refusal = { message: frame.message, retryAfterMs: frame.retry_after_ms }; // the close code says what to do
        } else {
          wire.close(1006, 'the server did not begin with welcome');
        }
      },
      close: (code, reason) => {
        overdue();
        this.#closed(code, refusal?.message ?? reason, refusal?.retryAfterMs);
      },
    });
    this.#wire = wire;
  }

  /** @param {unknown} data */
  #decoded(data) {
    try {
      return decode(data);
    } catch (error) {
      this.#wire?.close(1006, String(error));
      return null;
    }
  }

  /** @param {import('./protocol.js').Welcome} frame */
  #welcomed(frame) {
    const { user, clock } = this.#options;
    if (frame.user !== user) return this.#wire?.close(4401, `the token is of ${frame.user}, not of ${user}`);
    this.#open = true;
    this.core.welcomed(frame, clock.nowMs());
    this.#tellStatus({ state: 'catching_up', retryAtMs: null, error: null });
    this.#pump();
  }

  /** @param {import('./protocol.js').ServerFrame} frame */
  #receive(frame) {
    const leave = this.core.receive(frame, this.#options.clock.nowMs());
    if (leave) this.#wire?.close(1006, leave);
    this.#pump();
  }

  /** @param {number} code @param {string} reason @param {number} [retryAfterMs] */
  #closed(code, reason, retryAfterMs) {
    this.#wire = null;
    this.#open = false;
    this.#wakeUp();
    if (this.#ended) return;
    const { clock } = this.#options;
    // The hello of a connection that was given up may be read after that of the next one, whose place it takes; so the
    // first 4409 after a loss need not mean that somebody else is this device.
    const late = code === REPLACED && clock.nowMs() < this.#lateUntilMs;
    if (FINAL_CLOSES.has(code) && !late) {
      return this.#end({ state: 'stopped', retryAtMs: null, error: { code: endOf(code), message: reason, status: code } });
    }
    this.#lateUntilMs = late ? -Infinity : clock.nowMs() + LATE_HELLO_MS;
    const { waitMs, asked } = this.core.disconnected(clock.nowMs(), retryAfterMs);
    this.#asked = asked;
    const error = { code: 'unavailable', message: reason, status: code };
    this.#tellStatus({ state: 'offline', retryAtMs: Date.now() + Math.ceil(waitMs), error });
    this.#retry = clock.after(waitMs, () => this.#connect());
    this.#flush();
  }

  /** Send what is due, store what came, and come back when something is due again. */
  #pump() {
    if (this.#ended) return;
    const { clock } = this.#options;
    const wire = this.#wire;
    if (wire && this.#open) {
      const nowMs = clock.nowMs();
      const leave = this.core.leaves(nowMs);
      if (leave) return wire.close(1012, leave);
      this.core.expired(nowMs);
      for (const frame of this.core.due(nowMs)) wire.send(frame);
      this.#wakeUp();
      const inMs = this.core.deadlineMs() - nowMs;
      this.#wakeUp = inMs === Infinity ? nothing : clock.after(Math.max(inMs, 0), () => this.#pump());
    }
    this.#flush();
  }

  // --- the storage ---

  async #flush() {
    if (this.#flushing) return;
    this.#flushing = true;
    try {
      for (let changes; !this.#ended && (changes = this.core.unsaved()); ) {
        if (changes.write) await this.#options.storage.write(changes.write, this.#lead);
        this.core.stored(changes);
        this.#options.tell(changes.notes);
        if (this.core.live && this.#open && this.status.state === 'catching_up') {
          this.#tellStatus({ state: 'live', retryAtMs: null, error: null });
        }
        if (changes.write) this.#sendAcks();
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#flushing = false;
      for (const call of this.#flushed.splice(0)) call();
    }
  }

  #sendAcks() {
    if (this.#wire && this.#open && !this.#ended) for (const frame of this.core.due(this.#options.clock.nowMs())) this.#wire.send(frame);
  }

  /** The storage cannot go on, or another client leads it. @param {unknown} error */
  #fail(error) {
    if (this.#ended) return;
    if (error instanceof ChatdError && error.code === 'superseded') {
      this.#end(null);
      this.#options.superseded?.();
      return;
    }
    const { code, message } = error instanceof ChatdError ? error : { code: 'storage', message: String(error) };
    this.#end({ state: 'stopped', retryAtMs: null, error: { code, message } });
  }

  /** @param {Status | null} status */
  #end(status) {
    if (this.#ended) return;
    this.#ended = true;
    this.#wakeUp();
    this.#retry();
    this.#wire?.close(1000, 'closed by the application');
    if (status) this.#tellStatus(status);
  }

  /** @param {Status} status */
  #tellStatus(status) {
    this.status = { ...status, limits: this.core.limits };
    this.#options.tell({ status: this.status });
  }
}

/** The word for a close code after which this client does not come back. @param {number} code */
function endOf(code) {
  return { 4401: 'unauthenticated', 4403: 'forbidden', 4409: 'replaced' }[code] ?? 'bad_frame';
}
