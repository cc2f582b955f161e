// A real server as a process, and a proxy before it that cuts connections.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { login, register } from '../../chatd/web/sdk/chatd.js';

const ROOT = path.resolve(import.meta.dirname ?? '.', '../..');
const PYTHON = process.env.CHATD_PYTHON ?? path.join(ROOT, '.venv/bin/python');

/** A server of chatd.testing with its data in a directory that goes with it. It ends with this process. */
export class RealServer {
  #directory = mkdtempSync(path.join(tmpdir(), 'chatd-web-'));
  #process = null;
  port = 0;

  async start() {
    const args = ['-m', 'chatd.testing.killable', '--data-dir', this.#directory, '--port', String(this.port)];
    this.#process = spawn(PYTHON, args, { cwd: ROOT, stdio: ['pipe', 'pipe', 'pipe'] });
    let errors = '';
    this.#process.stderr.on('data', (data) => (errors = (errors + data).slice(-4000)));
    for await (const line of createInterface({ input: this.#process.stdout })) {
      this.port = JSON.parse(line).port;
      return this;
    }
    throw new Error(`the server did not start: ${errors}`);
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  async kill() {
    const gone = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.kill('SIGKILL');
    await gone;
  }

  async stop() {
    const gone = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.stdin.end();
    await gone;
    rmSync(this.#directory, { recursive: true });
  }

  /** A new account, logged in. */
  async account(user) {
    await register(this.url, { user, password: `password of ${user}` });
    return login(this.url, { user, password: `password of ${user}`, deviceName: 'node' });
  }
}

/** A TCP proxy whose connections can be cut. */
export async function proxy(target) {
  const links = new Set();
  const server = net.createServer((client) => {
    const upstream = net.connect(target(), '127.0.0.1');
    const link = { cut: () => [client, upstream].forEach((socket) => socket.resetAndDestroy()) };
    links.add(link);
    for (const [one, other] of [[client, upstream], [upstream, client]]) {
      one.pipe(other);
      one.on('error', () => other.destroy());
      one.on('close', () => links.delete(link) && other.destroy());
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    links,
    close: () => {
      for (const { cut } of links) cut();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Until `holds`, looked at after each event of the clients; or an error after so many ms. */
export async function until(holds, what, timeoutMs = 60_000) {
  const deadline = Date.now() + timeoutMs;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`not in ${timeoutMs} ms: ${typeof what === 'function' ? what() : what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Numbers in [0, 1) from a seed. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
