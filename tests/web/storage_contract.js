// What every storage promises: one suite, for Node and for a page. `cases` are names and functions of a fresh, open storage.

const PEER = 'alice:bob';
const entry = (seq, more = {}) => ({ seq, ts: 1000 + seq, id: `id-${seq}`, from: 'bob', body: `body ${seq}`, ...more });
const row = (conv, seen, updated = seen) => ({
  conv, peer: 'bob', seen, head: seen, floor: 0, delivered: seen, read: 0, peerDelivered: 0, peerRead: 0, updated, last: null,
});
const write = (more) => ({ reset: false, place: {}, messages: [], rows: [], answered: [], failed: [], reads: [], ...more });
const send = (id, more = {}) => ({ id, to: 'bob', body: `of ${id}`, at: 1, ...more });

function same(got, wanted, what = '') {
  const [one, other] = [got, wanted].map((value) => JSON.stringify(sorted(value)));
  if (one !== other) throw new Error(`${what}: got ${one}, wanted ${other}`);
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

async function refuses(promise, code) {
  const error = await promise.then(() => null, (reason) => reason);
  if (error?.code !== code) throw new Error(`wanted ${code}, got ${error}`);
}

const seqs = (entries) => entries.map(({ seq }) => seq);

export const cases = {
  'an empty one is empty': async (storage) => {
    same(await storage.load(), { place: {}, rows: [], outbox: [], reads: [] });
    same(await storage.messages(PEER, { before: 10, limit: 5 }), []);
  },

  'what was written together is there': async (storage) => {
    const lead = await storage.lead();
    await storage.write(write({ place: { incarnation: 'i', since: 's1' }, messages: [[PEER, [entry(1), entry(2)]]], rows: [row(PEER, 2), row('alice:carol', 1)] }), lead);
    await storage.write(write({ place: { since: 's2' } }), lead);
    const { place, rows } = await storage.load();
    same(place, { incarnation: 'i', since: 's2' });
    same(await storage.place(), place);
    same(rows, [row('alice:carol', 1), row(PEER, 2)], 'the oldest first');
    same(await storage.messages(PEER, { before: 3, limit: 5 }), [entry(1), entry(2)]);
  },

  'sends keep their order, are found again, and an id is there once': async (storage) => {
    const added = await Promise.all(['a', 'b', 'c'].map((id) => storage.add(send(id))));
    same(added.map(({ id }) => id), ['a', 'b', 'c']);
    if (!(added[0].order < added[1].order && added[1].order < added[2].order)) throw new Error('orders do not grow');
    same(await storage.add(send('b', { body: 'other' })), added[1]);
    same(await storage.outbox(), added);
    same(await storage.outbox(added[1].order), [added[2]]);
  },

  'an answered send is gone, a failed one stays, goes again or is forgotten': async (storage) => {
    const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((id) => storage.add(send(id))));
    const lead = await storage.lead();
    await storage.write(write({ answered: [a.order], failed: [{ order: b.order, code: 'not_found' }, { order: c.order, code: 'id_reuse' }] }), lead);
    same((await storage.outbox()).map(({ id, failed }) => [id, failed]), [['b', 'not_found'], ['c', 'id_reuse']]);
    const again = await storage.retry('b');
    same([again.id, again.failed, again.order > c.order, again.body], ['b', undefined, true, 'of b']);
    same(await storage.retry('b'), null, 'it did not fail');
    same(await storage.discard('b'), false);
    const renamed = await storage.retry('c');
    same([renamed.id === 'c', renamed.body], [false, 'of c']);
    const d = await storage.add(send('d'));
    await storage.write(write({ failed: [{ order: d.order, code: 'too_large' }] }), lead);
    same([await storage.discard('d'), await storage.discard('d')], [true, false]);
    same((await storage.outbox()).map(({ id }) => id), ['b', renamed.id]);
  },

  'orders are not used again': async (storage) => {
    const a = await storage.add(send('a'));
    await storage.write(write({ answered: [a.order] }), await storage.lead());
    const b = await storage.add(send('b'));
    if (b.order <= a.order) throw new Error('an order came again');
  },

  'read marks are maxima, and go when they are confirmed': async (storage) => {
    const lead = await storage.lead();
    await storage.read(PEER, 5);
    await storage.read(PEER, 3);
    same(await storage.reads(), [{ conv: PEER, seq: 5 }]);
    await storage.write(write({ reads: [{ conv: PEER, seq: 4 }] }), lead);
    same((await storage.load()).reads, [{ conv: PEER, seq: 5 }]);
    await storage.write(write({ reads: [{ conv: PEER, seq: 5 }] }), lead);
    same(await storage.reads(), []);
  },

  'messages come without a gap, up to a seq': async (storage) => {
    const lead = await storage.lead();
    await storage.write(write({ place: { incarnation: 'i' }, messages: [[PEER, [entry(1), entry(2), entry(5), entry(6), entry(7)]], ['alice:carol', [entry(3)]]] }), lead);
    same(seqs(await storage.messages(PEER, { before: 8, limit: 10 })), [5, 6, 7]);
    same(seqs(await storage.messages(PEER, { before: 7, limit: 1 })), [6]);
    same(seqs(await storage.messages(PEER, { before: 5, limit: 10 })), [], '4 is not there');
    await storage.keep(PEER, [entry(3), entry(4)], 'i');
    same(seqs(await storage.messages(PEER, { before: 8, limit: 5 })), [3, 4, 5, 6, 7]);
    await storage.keep(PEER, [{ seq: 4, ts: 1, gone: 'expired', first: 1 }], 'i');
    same(seqs(await storage.messages(PEER, { before: 8, limit: 10 })), [4, 5, 6, 7], 'one place for four');
  },

  'a page of another history is not kept': async (storage) => {
    await storage.write(write({ place: { incarnation: 'new' } }), await storage.lead());
    await storage.keep(PEER, [entry(1)], 'old');
    same(await storage.messages(PEER, { before: 2, limit: 5 }), []);
  },

  'a reset forgets the log and keeps the outbox': async (storage) => {
    const lead = await storage.lead();
    const a = await storage.add(send('a'));
    await storage.read(PEER, 1);
    await storage.write(write({ place: { incarnation: 'old', since: 's' }, messages: [[PEER, [entry(1)]]], rows: [row(PEER, 1)] }), lead);
    await storage.write(write({ reset: true, place: { incarnation: 'new' }, messages: [[PEER, [entry(2)]]] }), lead);
    same(await storage.load(), { place: { incarnation: 'new' }, rows: [], outbox: [a], reads: [] });
    same(seqs(await storage.messages(PEER, { before: 3, limit: 5 })), [2]);
  },

  'only the last one to lead writes': async (storage) => {
    const first = await storage.lead();
    const second = await storage.lead();
    await refuses(storage.write(write({ place: { since: 'x' } }), first), 'superseded');
    await storage.write(write({ place: { since: 'y' } }), second);
    same(await storage.place(), { since: 'y' });
  },

  'clear forgets everything, and who led before leads no more': async (storage) => {
    const lead = await storage.lead();
    await storage.add(send('a'));
    await storage.read(PEER, 1);
    await storage.write(write({ place: { incarnation: 'i' }, messages: [[PEER, [entry(1)]]], rows: [row(PEER, 1)] }), lead);
    await storage.clear();
    same(await storage.load(), { place: {}, rows: [], outbox: [], reads: [] });
    await refuses(storage.write(write({ place: { since: 'x' } }), lead), 'superseded');
  },

  'ten thousand sends fit, and no more': async (storage) => {
    await Promise.all(Array.from({ length: 10_000 }, (_, i) => storage.add(send(`id ${i}`))));
    await refuses(storage.add(send('one more')), 'overloaded');
  },
};
