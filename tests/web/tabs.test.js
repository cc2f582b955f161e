// Several tabs on one storage: one connection, and nothing lost or told twice when its tab goes away.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Chatd } from '../../chatd/web/sdk/chatd.js';
import { memoryStorage } from '../../chatd/web/sdk/storage.js';
import { FakeLocks, ManualClock, fakeServer, message, settled } from './fakes.js';

const C = 'alice:bob';

/** What the channel carries takes a turn of its own. */
async function quiet() {
  for (let turn = 0; turn < 5; turn++) {
    await settled();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

function browser() {
  const [storage, locks, server, clock] = [memoryStorage({ shared: true }), new FakeLocks(), fakeServer(), new ManualClock()];
  const open = async () => {
    const chat = new Chatd({ url: 'http://chat.example', user: 'alice', token: 't', storage, locks, clock, random: () => 1, WebSocket: server.WebSocket });
    const seqs = [];
    chat.on('message', (event) => seqs.push(event.message.seq));
    await chat.start();
    await quiet();
    return { chat, seqs };
  };
  return { storage, locks, server, clock, open };
}

const live = async (socket) => {
  await socket.welcome();
  socket.say({ type: 'caught_up', since: 's1' });
  await quiet();
};

test('one connection for all tabs, and all are told the same', async () => {
  const { server, open } = browser();
  const [one, two] = [await open(), await open()];
  assert.equal(server.sockets.length, 1);
  await live(server.last);
  assert.deepEqual([one.chat.state, two.chat.state], ['live', 'live']);
  server.last.say({ type: 'messages', conv: C, messages: [message(1), message(2)] });
  await quiet();
  assert.deepEqual([one.seqs, two.seqs], [[1, 2], [1, 2]]);
  assert.deepEqual(two.chat.conversations(), one.chat.conversations());
  assert.equal(two.chat.badge, 2);
  const three = await open();
  assert.deepEqual([three.chat.state, three.chat.badge, three.seqs], ['live', 2, []]);
  for (const { chat } of [three, two, one]) await chat.stop();
});

test('a send, a retry, a read mark, typing and a watch of a tab go through the leader', async () => {
  const { server, open } = browser();
  const [one, two] = [await open(), await open()];
  await live(server.last);
  const a = two.chat.send('bob', 'a');
  await quiet();
  assert.deepEqual(server.last.took('send').map(({ id }) => id), [a.id]);
  assert.equal(one.chat.outbox(C).length, 1);
  server.last.say({ type: 'sent', id: a.id, conv: C, seq: 1, ts: 1 });
  assert.equal((await a.sent).seq, 1);
  server.last.say({ type: 'receipt', conv: C, user: 'bob', delivered: 1, read: 1 });
  assert.equal((await a.read).seq, 1);
  server.last.say({ type: 'messages', conv: C, messages: [message(2)] });
  await quiet();
  await two.chat.read(C, 2);
  two.chat.typing(C);
  two.chat.watch(['bob']);
  await quiet();
  assert.deepEqual(server.last.took('read').map(({ seq }) => seq), [2]);
  assert.equal(server.last.took('typing').length, 1);
  const [{ ref }] = server.last.took('watch');
  server.last.say({ type: 'presence', states: [{ user: 'bob', state: 'online' }], ref });
  await quiet();
  assert.deepEqual([one.chat.badge, two.chat.badge, two.chat.presence('bob').state], [0, 0, 'online']);
  await two.chat.stop();
  await one.chat.stop();
});

test('the leader goes: another tab takes over, repeats what was not answered, and watches again', async () => {
  const { server, open } = browser();
  const [one, two, three] = [await open(), await open(), await open()];
  await live(server.last);
  three.chat.watch(['bob']);
  const a = three.chat.send('bob', 'a');
  await quiet();
  assert.deepEqual(server.last.took('send').map(({ id }) => id), [a.id]);
  await one.chat.stop();
  await quiet();
  assert.equal(server.sockets.length, 2);
  await live(server.last);
  assert.deepEqual(server.last.took('send').map(({ id }) => id), [a.id]);
  assert.deepEqual(server.last.took('watch').map(({ users }) => users), [['bob']]);
  server.last.say({ type: 'sent', id: a.id, conv: C, seq: 1, ts: 1 });
  assert.equal((await a.sent).seq, 1);
  await quiet();
  assert.deepEqual([two.chat.state, three.chat.state, two.seqs, three.seqs], ['live', 'live', [1], [1]]);
  await three.chat.stop();
  await two.chat.stop();
});

test('what a leader stored and did not tell is read by the others', async () => {
  const { storage, server, open, locks } = browser();
  const [one, two] = [await open(), await open()];
  await live(server.last);
  const a = two.chat.send('bob', 'a');
  await quiet();
  // it ends between its last transaction and its word: nothing that it says is heard
  const write = storage.write.bind(storage);
  let stored;
  const written = new Promise((resolve) => (stored = resolve));
  storage.write = async (...args) => {
    await write(...args);
    stored();
    await new Promise(() => {});
  };
  server.last.say({ type: 'sent', id: a.id, conv: C, seq: 1, ts: 2 });
  await written;
  storage.write = write;
  await quiet();
  assert.deepEqual([two.seqs, two.chat.outbox().length], [[], 1]);
  void locks.request(`chatd ${storage.name}`, { steal: true }, async () => {}); // the browser ends it
  await quiet();
  assert.equal((await a.sent).seq, 1);
  await live(server.last);
  server.last.say({ type: 'messages', conv: C, messages: [message(2)] });
  await quiet();
  assert.deepEqual([two.seqs, two.chat.outbox(), server.last.took('send')], [[1, 2], [], []]);
  await two.chat.stop();
  await one.chat.stop();
});

test('a leader that sleeps is replaced when somebody looks at another tab, and writes no more when it wakes', async () => {
  const { server, clock, open } = browser();
  const [one, two] = [await open(), await open()];
  await live(server.last);
  const asleep = server.last;
  const real = BroadcastChannel.prototype.postMessage;
  BroadcastChannel.prototype.postMessage = function (word) { // the leader answers nobody
    if (word.t !== 'pong') real.call(this, word);
  };
  two.chat.looked();
  await quiet();
  await clock.advance(5000);
  await quiet();
  BroadcastChannel.prototype.postMessage = real;
  assert.equal(server.sockets.length, 2);
  await live(server.last);
  asleep.say({ type: 'messages', conv: C, messages: [message(1, 'bob', 'of the sleeper')] });
  server.last.say({ type: 'messages', conv: C, messages: [message(1)] });
  await quiet();
  assert.deepEqual([one.seqs, two.seqs, one.chat.state, two.chat.state], [[1], [1], 'live', 'live']);
  assert.equal((await two.chat.messages(C))[0].body, 'body 1');
  await two.chat.stop();
  await one.chat.stop();
});

test('signed out in one tab is signed out in all, and nothing is left', async () => {
  const { storage, server, locks, clock } = browser();
  const fetch = async () => new Response(null, { status: 204 });
  const open = async () => {
    const chat = new Chatd({ url: 'http://chat.example', user: 'alice', token: 't', storage, locks, clock, fetch, WebSocket: server.WebSocket });
    await chat.start();
    await quiet();
    return chat;
  };
  const [one, two] = [await open(), await open()];
  await live(server.last);
  server.last.say({ type: 'messages', conv: C, messages: [message(1)] });
  await quiet();
  await two.signOut();
  await quiet();
  assert.deepEqual([one.state, two.state, one.error.code], ['stopped', 'stopped', 'unauthenticated']);
  assert.deepEqual(await storage.load(), { place: {}, rows: [], outbox: [], reads: [] });
});

test('a token that is no longer good stops all tabs, and a new client of the same storage leads', async () => {
  const { server, open } = browser();
  const [one, two] = [await open(), await open()];
  let signedOut = 0;
  two.chat.on('signed_out', () => signedOut++);
  server.last.drop(4401);
  await quiet();
  assert.deepEqual([one.chat.state, two.chat.state, signedOut, server.sockets.length], ['stopped', 'stopped', 1, 1]);
  const three = await open();
  assert.equal(server.sockets.length, 2);
  await live(server.last);
  assert.equal(three.chat.state, 'live');
  for (const { chat } of [one, two, three]) await chat.stop();
});
