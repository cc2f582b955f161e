// One WebSocket: it opens, hands over text frames, and tells once how it ended.

import { SUBPROTOCOL, WS_PATH } from './protocol.js';

/** @typedef {{ open: () => void, frame: (data: unknown) => void, close: (code: number, reason: string) => void }} WireEvents */
/** @typedef {new (url: string, protocols: string[]) => WebSocket} WebSocketClass */

/**
 * The base of a server's HTTP API, without a slash at its end. Throws TypeError: not a URL.
 * @param {string} url http, https, ws or wss, with or without the path of the socket; in a page it may be relative
 */
export function httpBase(url) {
  const { protocol, host, pathname } = new URL(url, globalThis.location?.href);
  if (!/^(http|ws)s?:$/.test(protocol) || !host) throw new TypeError(`not a server's URL (http://host:port): ${url}`);
  const path = pathname.replace(/\/+$/, '');
  return `${protocol.replace('ws', 'http')}//${host}${path.endsWith(WS_PATH) ? path.slice(0, -WS_PATH.length) : path}`;
}

/** The URL of a server's socket, with the hint for placement. @param {string} url @param {string} user */
export function socketUrl(url, user) {
  return `${httpBase(url).replace('http', 'ws')}${WS_PATH}?user=${encodeURIComponent(user)}`;
}

export class Wire {
  #socket;
  /** @type {WireEvents | null} */
  #on;

  /** @param {WebSocketClass} WebSocket @param {string} url @param {WireEvents} on */
  constructor(WebSocket, url, on) {
    this.#on = on;
    const socket = new WebSocket(url, [SUBPROTOCOL]);
    this.#socket = socket;
    socket.addEventListener('open', () => this.#on?.open());
    socket.addEventListener('message', (event) => this.#on?.frame(event.data));
    // close follows at once and says as much, but in Node 20 not when the handshake failed
    socket.addEventListener('error', () => setTimeout(() => this.#ended(1006, 'the connection was lost')));
    socket.addEventListener('close', ({ code, reason }) => this.#ended(code, reason || 'the connection was lost'));
  }

  /** @param {import('./protocol.js').ClientFrame} frame */
  send(frame) {
    if (this.#socket.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  /** Let go of it, and tell `code`: a network that went away would answer a close frame after minutes. @param {number} code @param {string} reason */
  close(code, reason) {
    this.#socket.close(1000);
    this.#ended(code, reason);
  }

  /** @param {number} code @param {string} reason */
  #ended(code, reason) {
    const on = this.#on;
    this.#on = null;
    on?.close(code, reason);
  }
}
