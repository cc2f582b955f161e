// A storage in the browser's IndexedDB: it outlives the page, and all tabs of one origin see the same.

import { ChatdError } from './protocol.js';
import { OUTBOX_MESSAGES_MAX, again, outboxFull, withoutGap } from './storage.js';

/** @typedef {import('./protocol.js').Entry} Entry */
/** @typedef {import('./rows.js').Row} Row */
/** @typedef {import('./storage.js').Unsent} Unsent */
/** @typedef {import('./storage.js').Storage} Kept */
/** @typedef {import('./core.js').Write} Write */
/** @typedef {import('./core.js').Place} Place */

const VERSION = 1;
const STORES = ['meta', 'rows', 'messages', 'outbox', 'reads'];

/**
 * @param {string} [name] of the database: one for each server and user
 * @returns {import('./storage.js').Storage}
 */
export const indexedDbStorage = (name = 'chatd') => new IndexedDbStorage(name);

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** @param {unknown} cause */
const broken = (cause) => (cause instanceof ChatdError ? cause : new ChatdError('storage', `the browser's storage: ${cause}`, { cause }));

/** @implements {Kept} */
class IndexedDbStorage {
  shared = true;
  /** @type {IDBDatabase | null} */
  #db = null;

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  async open() {
    try {
      const request = indexedDB.open(this.name, VERSION);
      request.onupgradeneeded = () => {
        const db = request.result;
        db.createObjectStore('meta');
        db.createObjectStore('rows', { keyPath: 'conv' });
        db.createObjectStore('messages', { keyPath: ['conv', 'seq'] });
        db.createObjectStore('outbox', { keyPath: 'order', autoIncrement: true }).createIndex('id', 'id', { unique: true });
        db.createObjectStore('reads', { keyPath: 'conv' });
      };
      this.#db = await done(request);
      this.#db.onversionchange = () => this.close(); // a newer page wants it: this one is told at its next call
    } catch (error) {
      throw broken(error);
    }
  }

  async close() {
    this.#db?.close();
    this.#db = null;
  }

  async load() {
    return this.#run(['meta', 'rows', 'outbox', 'reads'], 'readonly', async (get) => {
      const rows = /** @type {Row[]} */ (await done(get('rows').getAll()));
      rows.sort((one, other) => one.updated - other.updated);
      const [place, outbox, reads] = await Promise.all([
        done(get('meta').get('place')), done(get('outbox').getAll()), done(get('reads').getAll()),
      ]);
      return { place: place ?? {}, rows, outbox, reads };
    });
  }

  async place() {
    return (await this.#run(['meta'], 'readonly', (get) => done(get('meta').get('place')))) ?? {};
  }

  async lead() {
    return this.#run(['meta'], 'readwrite', raiseLead);
  }

  /** @param {Write} write @param {number} lead */
  async write({ reset, place, messages, rows, answered, failed, reads }, lead) {
    await this.#run(STORES, 'readwrite', async (get) => {
      const [leads, known] = await Promise.all([done(get('meta').get('lead')), done(get('meta').get('place'))]);
      if (leads !== lead) throw new ChatdError('superseded', 'another client uses this storage');
      if (reset) for (const of of ['rows', 'messages', 'reads']) get(of).clear();
      if (reset || Object.keys(place).length) get('meta').put(reset ? place : { ...known, ...place }, 'place');
      for (const [conv, entries] of messages) for (const entry of entries) get('messages').put({ ...entry, conv });
      for (const row of rows) get('rows').put(row);
      for (const order of answered) get('outbox').delete(order);
      for (const { order, code } of failed) {
        const entry = await done(get('outbox').get(order));
        if (entry) get('outbox').put({ ...entry, failed: code });
      }
      for (const { conv, seq } of reads) {
        const wanted = await done(get('reads').get(conv));
        if (wanted && wanted.seq <= seq) get('reads').delete(conv);
      }
    });
  }

  /** @param {Omit<Unsent, 'order'>} entry */
  async add(entry) {
    return this.#run(['outbox'], 'readwrite', async (get) => {
      const known = await done(get('outbox').index('id').get(entry.id));
      if (known) return known;
      if ((await done(get('outbox').count())) >= OUTBOX_MESSAGES_MAX) throw outboxFull();
      return { ...entry, order: await done(get('outbox').add(entry)) };
    });
  }

  async outbox(after = 0) {
    return this.#run(['outbox'], 'readonly', (get) => done(get('outbox').getAll(IDBKeyRange.lowerBound(after, true))));
  }

  /** @param {string} id */
  async retry(id) {
    return this.#run(['outbox'], 'readwrite', async (get) => {
      const entry = await done(get('outbox').index('id').get(id));
      if (!entry?.failed) return null;
      get('outbox').delete(entry.order);
      const sent = again(entry);
      return { ...sent, order: await done(get('outbox').add(sent)) };
    });
  }

  /** @param {string} id */
  async discard(id) {
    return this.#run(['outbox'], 'readwrite', async (get) => {
      const entry = await done(get('outbox').index('id').get(id));
      if (entry?.failed) get('outbox').delete(entry.order);
      return entry?.failed !== undefined;
    });
  }

  /** @param {string} conv @param {number} seq */
  async read(conv, seq) {
    await this.#run(['reads'], 'readwrite', async (get) => {
      const wanted = await done(get('reads').get(conv));
      if (!wanted || wanted.seq < seq) get('reads').put({ conv, seq });
    });
  }

  async reads() {
    return this.#run(['reads'], 'readonly', (get) => done(get('reads').getAll()));
  }

  /** @param {string} conv @param {{ before: number, limit: number }} page */
  async messages(conv, { before, limit }) {
    // no cursor: numbers have no gap, so so many places below a seq hold at most so many entries
    const range = IDBKeyRange.bound([conv, before - limit], [conv, before], false, true);
    const found = await this.#run(['messages'], 'readonly', (get) => done(get('messages').getAll(range)));
    return withoutGap(found.map((/** @type {Entry & { conv: string }} */ { conv: _, ...entry }) => entry), before);
  }

  /** @param {string} conv @param {Entry[]} entries @param {string | undefined} incarnation */
  async keep(conv, entries, incarnation) {
    await this.#run(['meta', 'messages'], 'readwrite', async (get) => {
      const place = await done(get('meta').get('place'));
      if (place?.incarnation === incarnation) for (const entry of entries) get('messages').put({ ...entry, conv });
    });
  }

  async clear() {
    await this.#run(STORES, 'readwrite', async (get) => {
      await raiseLead(get);
      get('meta').delete('place');
      for (const of of STORES.slice(1)) get(of).clear();
    });
  }

  /**
   * One transaction: stored when this resolves, undone when `work` throws.
   * @template T
   * @param {string[]} stores
   * @param {'readonly' | 'readwrite'} mode
   * @param {(get: (store: string) => IDBObjectStore) => Promise<T>} work awaits nothing but requests of this transaction
   * @returns {Promise<T>}
   */
  async #run(stores, mode, work) {
    if (!this.#db) throw new ChatdError('storage', "the browser's storage is closed");
    try {
      // what is in the outbox exists nowhere else: it is on the disk before it counts as stored
      const durability = mode === 'readwrite' && stores.length === 1 && stores[0] === 'outbox' ? 'strict' : 'default';
      const transaction = this.#db.transaction(stores, mode, { durability });
      const ended = new Promise((resolve, reject) => {
        transaction.oncomplete = () => resolve(undefined);
        transaction.onabort = () => reject(transaction.error ?? new Error('the transaction was undone'));
      });
      ended.catch(() => {}); // `work` has told why
      let result;
      try {
        result = await work((store) => transaction.objectStore(store));
      } catch (error) {
        try {
          transaction.abort();
        } catch {
          // it had ended by itself
        }
        throw error;
      }
      await ended;
      return result;
    } catch (error) {
      throw broken(error);
    }
  }
}

/** @param {(store: string) => IDBObjectStore} get @returns {Promise<number>} */
async function raiseLead(get) {
  const lead = ((await done(get('meta').get('lead'))) ?? 0) + 1;
  get('meta').put(lead, 'lead');
  return lead;
}
