// Stand-ins for tests: a clock that a test moves, a socket whose other end a test plays, locks as of a browser.

/** A clock that stands until a test moves it. */
export class ManualClock {
  #nowMs = 0;
  #timers = new Set();

  nowMs = () => this.#nowMs;

  after = (ms, call) => {
    const timer = { atMs: this.#nowMs + ms, call };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  };

  async advance(ms) {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      await settled();
      const due = [...this.#timers].filter(({ atMs }) => atMs <= untilMs).sort((one, other) => one.atMs - other.atMs)[0];
      if (!due) break;
      this.#timers.delete(due);
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      due.call();
    }
    this.#nowMs = untilMs;
  }
}

/** Until everything that is ready to run has run. */
export async function settled() {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

export const LIMITS = {
  frame_bytes_max: 65536, body_bytes_max: 16384, window: 256, watermarks_max: 1000, page_items_max: 200, initial_history: 50,
  watches_max: 1000, watch_users_max: 200,
};

/** A server of which a test plays the answers. `sockets`: every connection that was opened, the newest last. */
export function fakeServer() {
  const sockets = [];
  class FakeSocket extends EventTarget {
    readyState = 0;
    sent = [];

    constructor(url, protocols) {
      super();
      Object.assign(this, { url, protocols });
      sockets.push(this);
    }

    send(data) {
      this.sent.push(JSON.parse(data));
    }

    close() {
      this.readyState = 3;
    }

    // --- the other end ---

    open() {
      this.readyState = 1;
      this.dispatchEvent(new Event('open'));
    }

    say(frame) {
      this.dispatchEvent(Object.assign(new Event('message'), { data: typeof frame === 'string' ? frame : JSON.stringify(frame) }));
    }

    async welcome(more = {}) {
      this.open();
      this.say({
        type: 'welcome', user: 'alice', device: 'd', session: 's', now: 1, incarnation: 'i1', reset: false, heartbeat_s: 25,
        durability: 'fsync', limits: LIMITS, ...more,
      });
      await settled();
    }

    drop(code = 1006, reason = '') {
      this.readyState = 3;
      this.dispatchEvent(Object.assign(new Event('close'), { code, reason }));
    }

    /** The frames of a type, taken out. */
    took(type) {
      const found = this.sent.filter((frame) => frame.type === type);
      this.sent = this.sent.filter((frame) => frame.type !== type);
      return found;
    }
  }
  return { WebSocket: FakeSocket, sockets, get last() { return sockets[sockets.length - 1]; } };
}

/** Web Locks of one process, exclusive ones. */
export class FakeLocks {
  #queues = new Map();

  request(name, options, work) {
    let queue = this.#queues.get(name);
    if (!queue) this.#queues.set(name, (queue = { held: null, waiting: [] }));
    return new Promise((resolve, reject) => {
      const aborted = () => new DOMException('aborted', 'AbortError');
      const one = { work, resolve, reject, aborted };
      if (options.signal?.aborted) return reject(aborted());
      options.signal?.addEventListener('abort', () => {
        const at = queue.waiting.indexOf(one);
        if (at >= 0) queue.waiting.splice(at, 1);
        if (at >= 0) reject(aborted());
      });
      if (options.steal) {
        queue.held?.reject(aborted());
        queue.held = null;
        queue.waiting.unshift(one);
      } else {
        queue.waiting.push(one);
      }
      queueMicrotask(() => this.#next(queue, name));
    });
  }

  #next(queue, name) {
    if (queue.held || !queue.waiting.length) return;
    const one = (queue.held = queue.waiting.shift());
    Promise.resolve(one.work({ name })).then(one.resolve, one.reject).finally(() => {
      if (queue.held !== one) return;
      queue.held = null;
      this.#next(queue, name);
    });
  }
}
export const message = (seq, from = 'bob', body = `body ${seq}`) => ({
  seq, ts: 1_000 + seq, id: `00000000-0000-7000-8000-${String(seq).padStart(12, '0')}`, from, body,
});
