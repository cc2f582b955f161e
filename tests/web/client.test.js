// The client against a server whose answers a test plays, on a clock that a test moves.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Chatd } from '../../chatd/web/sdk/chatd.js';
import { memoryStorage } from '../../chatd/web/sdk/storage.js';
import { ManualClock, fakeServer, message, settled } from './fakes.js';

const C = 'alice:bob';
const highest = () => 1;

async function begin({ storage = memoryStorage(), welcome = {}, ...options } = {}) {
  const clock = new ManualClock();
  const server = fakeServer();
  const chat = new Chatd({ url: 'http://chat.example', user: 'alice', token: 't', clock, random: highest, WebSocket: server.WebSocket, storage, ...options });
  const heard = [];
  for (const name of ['state', 'message', 'receipt', 'typing', 'presence', 'signed_out', 'badge', 'outbox', 'reset']) {
    chat.on(name, (event) => heard.push([name, event]));
  }
  await chat.start();
  await settled();
  if (welcome) await server.last.welcome(welcome);
  const told = (name) => heard.filter(([one]) => one === name).map(([, event]) => event);
  return { chat, clock, server, storage, told };
}

const caughtUp = async (socket, since = 's1') => {
  socket.say({ type: 'caught_up', since });
  await settled();
};
const sent = ({ id }, seq, more = {}) => ({ type: 'sent', id, conv: C, seq, ts: 1000 + seq, ...more });
const refused = ({ id }, code, more = {}) => ({ type: 'error', id, code, message: code, temporary: true, ...more });

test('hello, catch-up, live: stored first, then told, then acknowledged', async () => {
  const { chat, server, storage, told } = await begin();
  const socket = server.last;
  assert.equal(socket.url, 'ws://chat.example/v1/ws?user=alice');
  assert.deepEqual(socket.took('hello'), [{ type: 'hello', token: 't', agent: 'chatd-js' }]);
  const write = storage.write.bind(storage);
  let stores;
  storage.write = (...args) => new Promise((resolve) => (stores = () => resolve(write(...args))));
  socket.say({ type: 'messages', conv: C, messages: [message(1), message(2)] });
  await settled();
  assert.deepEqual([told('message'), socket.took('ack')], [[], []]);
  stores();
  await settled();
  assert.deepEqual(told('message').map(({ message: { seq } }) => seq), [1, 2]);
  assert.deepEqual(socket.took('ack'), [{ type: 'ack', conv: C, seq: 2 }]);
  storage.write = write;
  await caughtUp(socket);
  assert.deepEqual(told('state'), ['connecting', 'catching_up', 'live']);
  assert.deepEqual([chat.state, chat.badge], ['live', 2]);
  assert.deepEqual(await storage.place(), { incarnation: 'i1', since: 's1' });
  await chat.stop();
  assert.equal(chat.state, 'stopped');
});

test('after temporary refusals everything goes again in order, before anything new', async () => {
  const { chat, clock, server } = await begin();
  const socket = server.last;
  await caughtUp(socket);
  const [a, b] = [chat.send('bob', 'a'), chat.send('bob', 'b')];
  await settled();
  assert.deepEqual(socket.took('send').map(({ n, body }) => [n, body]), [[1, 'a'], [2, 'b']]);
  socket.say(refused(a, 'overloaded', { retry_after_ms: 250 }));
  const c = chat.send(C, 'c');
  await settled();
  assert.deepEqual(socket.took('send'), []);
  socket.say(refused(b, 'out_of_order'));
  await clock.advance(249);
  assert.deepEqual(socket.took('send'), []);
  await clock.advance(1);
  assert.deepEqual(socket.took('send').map(({ n, body }) => [n, body]), [[3, 'a'], [4, 'b'], [5, 'c']]);
  for (const [i, sending] of [a, b, c].entries()) socket.say(sent(sending, i + 1));
  assert.deepEqual((await Promise.all([a.sent, b.sent, c.sent])).map(({ seq }) => seq), [1, 2, 3]);
  assert.deepEqual((await chat.messages(C)).map(({ body, from }) => [body, from]), [['a', 'alice'], ['b', 'alice'], ['c', 'alice']]);
  assert.deepEqual(chat.outbox(), []);
  await chat.stop();
});

test('out_of_order for the first unanswered send makes a new connection', async () => {
  const { chat, clock, server } = await begin();
  const a = chat.send('bob', 'a');
  await settled();
  server.last.say(refused(a, 'out_of_order'));
  await clock.advance(500);
  assert.equal(server.sockets.length, 2);
  await server.last.welcome();
  assert.deepEqual(server.last.took('send').map(({ n, id }) => [n, id]), [[1, a.id]]);
  await chat.stop();
});

test('what was not answered is repeated with its id after a reconnect, and a duplicate is only an answer', async () => {
  const { chat, clock, server, told } = await begin();
  const [a, b] = [chat.send('bob', 'a'), chat.send('bob', 'b')];
  await settled();
  const before = server.last.took('send').map(({ id }) => id);
  server.last.drop();
  await clock.advance(500);
  await server.last.welcome();
  assert.deepEqual(server.last.took('send').map(({ id }) => id), before);
  server.last.say(sent(a, 1, { duplicate: true }));
  server.last.say({ type: 'messages', conv: C, messages: [{ ...message(1, 'alice', 'a'), id: a.id }] });
  server.last.say(sent(b, 2));
  assert.equal((await a.sent).seq, 1);
  assert.equal((await b.sent).seq, 2);
  await settled();
  assert.deepEqual(told('message').map((event) => [event.message.seq, event.message.body, event.mine]), [[1, 'a', true], [2, 'b', true]]);
  await chat.stop();
});

test('a send refused for good fails, stays, and goes again or is forgotten', async () => {
  const { chat, server, told } = await begin();
  const a = chat.send('nobody', 'a');
  const b = chat.send('nobody', 'b');
  await settled();
  for (const one of [a, b]) server.last.say(refused(one, 'not_found', { temporary: false }));
  await assert.rejects(a.sent, { code: 'not_found', temporary: false });
  await settled();
  assert.deepEqual(chat.outbox().map(({ body, failed }) => [body, failed]), [['a', 'not_found'], ['b', 'not_found']]);
  server.last.took('send');
  const again = await chat.retry(a.id);
  await chat.discard(b.id);
  await settled();
  assert.deepEqual(server.last.took('send').map(({ id }) => id), [a.id]);
  server.last.say({ ...sent(again, 1), conv: 'alice:nobody' });
  assert.equal((await again.sent).seq, 1);
  await settled();
  assert.deepEqual(told('outbox').map(({ change }) => change), ['added', 'added', 'failed', 'failed', 'added', 'discarded', 'sent']);
  await assert.rejects(chat.discard(b.id), { code: 'not_found' });
  await chat.stop();
});

test('what cannot be sent is told at once and not stored', async () => {
  const { chat } = await begin();
  for (const [body, code] of [['', 'bad_frame'], ['a\0', 'bad_frame'], ['\ud800', 'bad_frame'], ['x'.repeat(16_385), 'too_large'], ['\u0001'.repeat(16_000), 'too_large']]) {
    const sending = chat.send('bob', body);
    await assert.rejects(sending.sent, { code });
    await assert.rejects(sending.stored, { code });
  }
  await assert.rejects(chat.send('no such name', 'a').sent, { code: 'bad_frame' });
  assert.deepEqual(chat.outbox(), []);
  await chat.stop();
});

test('a gap is fetched, and the bookmark waits for it', async () => {
  const { chat, server, storage, told } = await begin();
  const socket = server.last;
  socket.say({ type: 'messages', conv: C, messages: [message(1)] });
  socket.say({ type: 'messages', conv: C, messages: [message(4)] });
  await caughtUp(socket);
  const [{ ref, ...frame }] = socket.took('history');
  assert.deepEqual(frame, { type: 'history', conv: C, after: 1, limit: 200 });
  assert.deepEqual([chat.state, (await storage.place()).since], ['catching_up', undefined]);
  socket.say({ type: 'messages', conv: C, messages: [message(2), message(3)], more: true, ref });
  await settled();
  const [{ ref: next, after }] = socket.took('history');
  assert.equal(after, 3);
  socket.say({ type: 'messages', conv: C, messages: [message(4)], ref: next });
  await settled();
  assert.deepEqual(told('message').map((event) => event.message.seq), [1, 2, 3, 4]);
  assert.deepEqual([chat.state, (await storage.place()).since], ['live', 's1']);
  await chat.stop();
});

test('a reset forgets the log, keeps the outbox, and takes what comes', async () => {
  const storage = memoryStorage();
  const { chat, clock, server, told } = await begin({ storage });
  server.last.say({ type: 'messages', conv: C, messages: [message(1), message(2)] });
  await caughtUp(server.last);
  const a = chat.send('bob', 'a');
  await settled();
  server.last.drop();
  await clock.advance(500);
  server.last.open();
  assert.deepEqual(server.last.took('hello'), [{ type: 'hello', token: 't', incarnation: 'i1', since: 's1', watermarks: { [C]: 2 }, agent: 'chatd-js' }]);
  await server.last.welcome({ incarnation: 'i2', reset: true });
  assert.deepEqual([chat.conversations(), told('reset').length], [[], 1]);
  server.last.say({ type: 'messages', conv: C, messages: [message(1, 'bob', 'other')] });
  server.last.say(sent(a, 2));
  await a.sent;
  await caughtUp(server.last, 's9');
  assert.deepEqual((await chat.messages(C)).map(({ body }) => body), ['other', 'a']);
  assert.deepEqual(await storage.place(), { incarnation: 'i2', since: 's9' });
  await chat.stop();
});

test('backoff: 0.5, 1, 2 … s with full jitter, from the start after caught_up; never less than the server asks', async () => {
  const { chat, clock, server } = await begin();
  for (const ms of [500, 1000, 2000]) {
    server.last.drop();
    await clock.advance(ms - 1);
    const { length } = server.sockets;
    await clock.advance(1);
    assert.equal(server.sockets.length, length + 1);
  }
  await server.last.welcome();
  await caughtUp(server.last);
  server.last.drop(1012);
  await clock.advance(500);
  assert.equal(server.sockets.length, 5);
  server.last.open();
  server.last.say({ type: 'error', code: 'overloaded', message: 'full', temporary: true, retry_after_ms: 7000 });
  server.last.drop(1013);
  await settled();
  assert.equal(chat.state, 'offline');
  assert.ok(Math.abs(chat.retryAtMs - Date.now() - 7000) < 500);
  await clock.advance(6999);
  assert.equal(server.sockets.length, 5);
  await clock.advance(1);
  assert.equal(server.sockets.length, 6);
  await chat.stop();
});

test('goaway: go on for a random part of it, then reconnect at once', async () => {
  const { chat, clock, server } = await begin();
  await caughtUp(server.last);
  server.last.say({ type: 'goaway', reason: 'shutdown', reconnect_ms: 5000 });
  await clock.advance(4999);
  assert.equal(server.sockets.length, 1);
  await clock.advance(1);
  assert.equal(server.sockets.length, 2);
  server.last.drop();
  await chat.stop();
});

test('closed after goaway, the rest of its time is waited', async () => {
  const { chat, clock, server } = await begin();
  await caughtUp(server.last);
  server.last.say({ type: 'goaway', reason: 'shutdown', reconnect_ms: 5000 });
  await clock.advance(1000);
  server.last.drop(1001);
  await clock.advance(3999);
  assert.equal(server.sockets.length, 1);
  await clock.advance(1);
  assert.equal(server.sockets.length, 2);
  await chat.stop();
});

test('final close codes stop it, and say why; the others do not', async () => {
  for (const [code, error] of [[4401, 'unauthenticated'], [4403, 'forbidden'], [4400, 'bad_frame'], [4409, 'replaced']]) {
    const { chat, server, told } = await begin();
    server.last.drop(code);
    await settled();
    assert.deepEqual([chat.state, chat.error.code], ['stopped', error]);
    assert.equal(told('signed_out').length, Number(code === 4401 || code === 4403));
    await chat.stop();
  }
  for (const code of [1001, 1006, 1011, 1012, 1013, 4408, 4429, 4999]) {
    const { chat, server } = await begin();
    server.last.drop(code);
    await settled();
    assert.equal(chat.state, 'offline');
    await chat.stop();
  }
});

test('the first 4409 after a loss may be the echo of the lost connection; the next one is not', async () => {
  const { chat, clock, server } = await begin();
  server.last.drop();
  await clock.advance(500);
  await server.last.welcome();
  server.last.drop(4409);
  assert.equal(chat.state, 'offline');
  await clock.advance(1000);
  await server.last.welcome();
  server.last.drop(4409);
  await settled();
  assert.equal(chat.state, 'stopped');
  await chat.stop();
});

test('a server that is silent is asked, and left', async () => {
  const { chat, clock, server } = await begin();
  await caughtUp(server.last);
  await clock.advance(24_999);
  assert.deepEqual(server.last.took('ping'), []);
  await clock.advance(1);
  assert.deepEqual(server.last.took('ping'), [{ type: 'ping' }]);
  server.last.say({ type: 'pong', now: 1 });
  await clock.advance(25_000);
  assert.equal(server.last.took('ping').length, 1);
  await clock.advance(10_000);
  assert.equal(chat.state, 'offline');
  await chat.stop();
});

test('whoever waits for its turn at a busy server is patient, but not after the network may have changed', async () => {
  const { chat, clock, server } = await begin({ welcome: null });
  await clock.advance(9_999);
  chat.looked();
  assert.equal(server.sockets.length, 1);
  await clock.advance(1);
  chat.looked();
  assert.equal(server.sockets.length, 2);
  await clock.advance(59_999);
  assert.equal(chat.state, 'connecting');
  await clock.advance(1);
  assert.equal(chat.state, 'offline');
  await chat.stop();
});

test('no welcome in 10 s is a lost connection; what is no frame ends one, what is unknown does not', async () => {
  const { chat, clock, server } = await begin({ welcome: null });
  await clock.advance(40_000);
  server.last.open();
  await clock.advance(9_999);
  assert.equal(chat.state, 'connecting');
  await clock.advance(1);
  assert.equal(chat.state, 'offline');
  await clock.advance(500);
  await server.last.welcome();
  server.last.say({ type: 'reaction', of: 'a later version' });
  assert.equal(chat.state, 'catching_up');
  server.last.say('{"type":"sent"}');
  assert.equal(chat.state, 'offline');
  await chat.stop();
});

test('receipts are maxima, and settle delivered and read', async () => {
  const { chat, server, told } = await begin();
  await caughtUp(server.last);
  const [a, b] = [chat.send('bob', 'a'), chat.send('bob', 'b')];
  await settled();
  server.last.say(sent(a, 1));
  server.last.say(sent(b, 2));
  const receipt = (delivered, read) => server.last.say({ type: 'receipt', conv: C, user: 'bob', delivered, read });
  receipt(1, 1);
  assert.equal((await a.delivered).seq, 1);
  assert.equal((await a.read).seq, 1);
  receipt(2, 0);
  assert.equal((await b.delivered).seq, 2);
  await settled();
  const [{ peerDelivered, peerRead }] = chat.conversations();
  assert.deepEqual([peerDelivered, peerRead], [2, 1]);
  assert.deepEqual(told('receipt').filter(({ user }) => user === 'bob').map(({ delivered, read }) => [delivered, read]), [[1, 1], [2, 1]]);
  const waits = b.read;
  await chat.stop();
  await assert.rejects(waits, { code: 'stopped', temporary: true });
});

test('read: unread falls at once, it is told until confirmed, and again after a reconnect', async () => {
  const { chat, clock, server, told } = await begin();
  server.last.say({ type: 'messages', conv: C, messages: [message(1), message(2), message(3)] });
  await caughtUp(server.last);
  await chat.read(C, 2);
  await settled();
  assert.equal(chat.badge, 1);
  assert.deepEqual(told('badge'), [3, 1]);
  assert.deepEqual(server.last.took('read').map(({ seq }) => seq), [2]);
  server.last.drop();
  await clock.advance(500);
  await server.last.welcome();
  const [{ ref, seq }] = server.last.took('read');
  assert.equal(seq, 2);
  server.last.say({ type: 'ok', ref });
  server.last.drop();
  await clock.advance(1000);
  await server.last.welcome();
  assert.deepEqual(server.last.took('read'), []);
  await chat.stop();
});

test('what is unsent and unread survives the client', async () => {
  const storage = memoryStorage();
  const first = await begin({ storage });
  first.server.last.say({ type: 'messages', conv: C, messages: [message(1)] });
  await caughtUp(first.server.last);
  first.server.last.drop();
  const lost = first.chat.send('bob', 'offline');
  await first.chat.read(C, 1);
  await first.chat.stop();
  await assert.rejects(lost.sent, { code: 'stopped' });
  const { chat, server } = await begin({ storage });
  assert.deepEqual(server.last.took('hello')[0].watermarks, { [C]: 1 });
  assert.deepEqual(chat.outbox(C).map(({ id }) => id), [lost.id]);
  assert.deepEqual(server.last.took('send').map(({ id }) => id), [lost.id]);
  assert.deepEqual(server.last.took('read').map(({ seq }) => seq), [1]);
  assert.deepEqual([chat.badge, chat.conversations()[0].last.seq], [0, 1]);
  await chat.stop();
});

test('older messages come from the server, once; without it, what is stored', async () => {
  const asked = [];
  let online = true;
  const fetch = async (url) => {
    asked.push(String(url).split('/v1/')[1]);
    if (!online) throw new TypeError('fetch failed');
    return new Response(JSON.stringify({ conv: C, messages: [message(1), message(2), message(3)] }));
  };
  const { chat, server } = await begin({ fetch });
  server.last.say({ type: 'messages', conv: C, messages: [message(4), message(5)] });
  await caughtUp(server.last);
  assert.deepEqual((await chat.messages(C, { limit: 5 })).map(({ seq }) => seq), [1, 2, 3, 4, 5]);
  assert.deepEqual((await chat.messages(C, { before: 4 })).map(({ seq }) => seq), [1, 2, 3]);
  assert.deepEqual(asked, ['conversations/alice%3Abob/messages?limit=3&before=4']);
  online = false;
  server.last.say({ type: 'messages', conv: 'alice:carol', messages: [message(8, 'carol')] });
  await settled();
  assert.deepEqual((await chat.messages('alice:carol')).map(({ seq }) => seq), [8]);
  await assert.rejects(chat.messages('alice:dave'), { code: 'unavailable', temporary: true });
  await chat.stop();
});

test('presence and typing', async () => {
  const { chat, clock, server, told } = await begin();
  chat.watch(['bob']);
  chat.status('away', true);
  const [{ ref }] = server.last.took('watch');
  assert.deepEqual(server.last.took('status'), [{ type: 'status', state: 'away', inactive: true }]);
  server.last.say({ type: 'presence', states: [{ user: 'bob', state: 'offline', last_seen: 5 }], ref });
  server.last.say({ type: 'typing', conv: C, user: 'bob', on: true });
  await settled();
  assert.deepEqual(chat.presence('bob'), { user: 'bob', state: 'offline', lastSeen: 5 });
  await clock.advance(6000);
  assert.deepEqual(told('typing').map(({ on }) => on), [true, false]);
  chat.typing(C, true);
  assert.deepEqual(server.last.took('typing'), [{ type: 'typing', conv: C, on: true }]);
  server.last.drop();
  await settled();
  assert.equal(chat.presence('bob'), null);
  await chat.stop();
});

test('a storage that fails stops the client and says so', async () => {
  const { chat, server, storage } = await begin();
  storage.write = async () => { throw new Error('no room'); };
  server.last.say({ type: 'messages', conv: C, messages: [message(1)] });
  await settled();
  assert.deepEqual([chat.state, chat.error.code, server.last.took('ack')], ['stopped', 'storage', []]);
  await chat.stop();
});

test('a thousand frames while the storage is slow: bounded, and nothing is acknowledged before it is stored', async () => {
  const { chat, server, storage, told } = await begin();
  const write = storage.write.bind(storage);
  let calls = 0;
  storage.write = async (...args) => {
    calls++;
    await settled();
    return write(...args);
  };
  for (let seq = 1; seq <= 1000; seq++) server.last.say({ type: 'messages', conv: C, messages: [message(seq)] });
  await caughtUp(server.last);
  for (let turn = 0; turn < 20; turn++) await settled();
  assert.equal(told('message').length, 1000);
  assert.ok(calls <= 5, `${calls} writes`);
  assert.equal(server.last.took('ack').at(-1).seq, 1000);
  await chat.stop();
});
