// The HTTP calls of docs/protocol.md §5 that are no frames: accounts, devices, blocks, privacy, notifications, history.

import { ChatdError, cleanEntries } from './protocol.js';
import { httpBase } from './wire.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {{ device: string, name: string, created: number, expires?: number, current?: boolean }} Device times in Unix ms */
/** @typedef {{ user: string, device: string, token: string, expires?: number }} Account */
/** @typedef {{ fetch?: typeof fetch }} Options */

const TIMEOUT_MS = 30_000;
const TEMPORARY = new Set(['out_of_order', 'rate_limited', 'overloaded', 'unavailable', 'internal']);

/**
 * Log in as a new device. Rejects with ChatdError: `unauthenticated`, `rate_limited`, `unavailable` …
 * @param {string} url the server's, as http://host:port
 * @param {{ user: string, password: string, deviceName?: string }} credentials
 * @param {Options} [options]
 * @returns {Promise<Account>}
 */
export async function login(url, { user, password, deviceName = '' }, options = {}) {
  return /** @type {any} */ (await call(url, 'POST', '/v1/login', { ...options, body: { user, password, name: deviceName } }));
}

/**
 * Create an account; log in then. Rejects with ChatdError: `forbidden` where registration is closed or the invite is not good.
 * @param {string} url
 * @param {{ user: string, password: string, invite?: string }} account
 * @param {Options} [options]
 * @returns {Promise<{ user: string }>}
 */
export async function register(url, { user, password, invite }, options = {}) {
  return /** @type {any} */ (await call(url, 'POST', '/v1/register', { ...options, body: { user, password, invite } }));
}

/**
 * @param {string} url
 * @param {string} method
 * @param {string} path
 * @param {Options & { token?: string, body?: unknown }} options
 * @returns {Promise<unknown>}
 */
async function call(url, method, path, { token, body, fetch = globalThis.fetch }) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (token !== undefined) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  let answer;
  try {
    response = await fetch(httpBase(url) + path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    answer = await response.text();
  } catch (cause) {
    throw new ChatdError('unavailable', 'the server did not answer', { temporary: true, cause });
  }
  const said = answer ? parsed(answer) : null;
  if (response.ok) return said;
  const { code, detail, title, retry_after_ms } = /** @type {any} */ (said ?? {});
  throw new ChatdError(code ?? (response.status >= 500 ? 'unavailable' : 'refused'), detail ?? title ?? `status ${response.status}`, {
    temporary: code === undefined ? response.status >= 500 : TEMPORARY.has(code), retryAfterMs: retry_after_ms, status: response.status,
  });
}

/** @param {string} answer */
function parsed(answer) {
  try {
    return JSON.parse(answer);
  } catch (cause) {
    throw new ChatdError('unavailable', 'this is not the answer of a chatd server', { temporary: true, cause });
  }
}

/** The calls of one device. Each rejects with a ChatdError. */
export class Http {
  /** @type {(method: string, path: string, body?: unknown) => Promise<any>} */
  #call;

  /** @param {string} url @param {string} token @param {Options} [options] */
  constructor(url, token, options = {}) {
    this.#call = (method, path, body) => call(url, method, path, { ...options, token, body });
  }

  /**
   * Any other call of the API, as those for administrators; null: an answer without content.
   * @param {string} method @param {string} path @param {unknown} [body] @returns {Promise<any>}
   */
  call(method, path, body) {
    return this.#call(method, path, body);
  }

  /** Whom the token speaks for. @returns {Promise<{ user: string, device: string, admin: boolean }>} */
  account() {
    return this.#call('GET', '/v1/account');
  }

  /** The user's devices, oldest first. @returns {Promise<Device[]>} */
  async devices() {
    return (await this.#call('GET', '/v1/devices')).devices;
  }

  /** End a device: its token is no longer good. @param {string} device */
  async revoke(device) {
    await this.#call('DELETE', `/v1/devices/${encodeURIComponent(device)}`);
  }

  /** End this device. */
  async logout() {
    await this.#call('POST', '/v1/logout');
  }

  /** Whom the user blocks, sorted. @returns {Promise<string[]>} */
  async blocks() {
    return (await this.#call('GET', '/v1/blocks')).blocks;
  }

  /** Hear nothing more of a user, or again. @param {string} user */
  async block(user, on = true) {
    await this.#call(on ? 'PUT' : 'DELETE', `/v1/blocks/${encodeURIComponent(user)}`);
  }

  /** Whether others see when the user was last here, and the user sees it of them. @returns {Promise<{ lastSeen: boolean }>} */
  async privacy() {
    return { lastSeen: (await this.#call('GET', '/v1/privacy')).last_seen };
  }

  /** @param {{ lastSeen: boolean }} privacy */
  async setPrivacy({ lastSeen }) {
    await this.#call('PUT', '/v1/privacy', { last_seen: lastSeen });
  }

  /** The applicationServerKey for `pushManager.subscribe`; null: this server sends no Web Push. @returns {Promise<string | null>} */
  async vapidKey() {
    return (await this.#call('GET', '/v1/push')).kinds?.webpush?.vapid ?? null;
  }

  /** Where this device is notified; null: nowhere. @returns {Promise<{ kind: string, endpoint: string, created: number } | null>} */
  async subscription() {
    try {
      return await this.#call('GET', '/v1/push/subscription');
    } catch (error) {
      if (error instanceof ChatdError && error.code === 'not_found') return null;
      throw error;
    }
  }

  /** Notify this device here: a PushSubscription, or what its toJSON() gives. @param {PushSubscription | object} subscription */
  async subscribePush(subscription) {
    await this.#call('PUT', '/v1/push/subscription', subscription);
  }

  /** Notify this device no longer. */
  async unsubscribePush() {
    await this.#call('DELETE', '/v1/push/subscription');
  }

  /**
   * A page of a log, ascending: before a seq, or its end; empty for a conversation without a message.
   * @param {string} conv
   * @param {{ before?: number, limit?: number }} [page]
   * @returns {Promise<Entry[]>}
   */
  async history(conv, { before, limit = 50 } = {}) {
    const query = `limit=${limit}${before === undefined ? '' : `&before=${before}`}`;
    try {
      return cleanEntries((await this.#call('GET', `/v1/conversations/${encodeURIComponent(conv)}/messages?${query}`)).messages);
    } catch (error) {
      if (error instanceof ChatdError && error.code === 'not_found') return [];
      throw error;
    }
  }
}
