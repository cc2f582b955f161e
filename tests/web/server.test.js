// The client against a real server, through real sockets.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Chatd, login } from '../../chatd/web/sdk/chatd.js';
import { Http } from '../../chatd/web/sdk/http.js';
import { memoryStorage } from '../../chatd/web/sdk/storage.js';
import { RealServer, proxy, seeded, until } from './real_server.js';

const SEED = Number(process.env.CHATD_SEED ?? 1);
const MESSAGES = Number(process.env.CHATD_MESSAGES ?? 500);
const CUTS = Number(process.env.CHATD_CUTS ?? 25);
const KILLS = Number(process.env.CHATD_KILLS ?? 2);

let server;
before(async () => {
  server = await new RealServer().start();
});
after(() => server.stop());

let users = 0;
async function pair(more = {}) {
  const [a, b] = [`a${++users}`, `b${users}`];
  const accounts = [await server.account(a), await server.account(b)];
  const [one, two] = accounts.map((account) => new Chatd({ url: server.url, ...account, ...more }));
  return { a, b, accounts, one, two, conv: one.convWith(b) };
}

test('sent, delivered, read, presence and typing between two users', async () => {
  const { a, b, one, two, conv } = await pair();
  await Promise.all([one.start(), two.start()]);
  const first = one.send(b, 'hello');
  assert.equal((await first.delivered).seq, 1);
  one.watch([b]);
  two.watch([a]);
  await until(() => one.presence(b)?.state === 'online', 'presence');
  const typed = new Promise((resolve) => two.on('typing', resolve));
  one.typing(conv);
  assert.deepEqual(await typed, { conv, user: a, on: true });
  assert.deepEqual([two.badge, two.conversations()[0].unread], [1, 1]);
  await two.read(conv, 1);
  assert.equal((await first.read).seq, 1);
  assert.equal(two.badge, 0);
  assert.deepEqual((await two.messages(conv)).map(({ from, body }) => [from, body]), [[a, 'hello']]);
  await Promise.all([one.stop(), two.stop()]);
});

test('errors of the server come as they are', async () => {
  const { one } = await pair();
  await one.start();
  await assert.rejects(one.send('nobody-of-this-name', 'x').sent, { code: 'not_found', temporary: false });
  await assert.rejects(login(server.url, { user: 'nobody', password: 'wrong' }), { code: 'unauthenticated', status: 401 });
  await assert.rejects(login('http://127.0.0.1:1', { user: 'nobody', password: 'wrong' }), { code: 'unavailable', temporary: true });
  assert.deepEqual(await one.messages(one.convWith('nobody-of-this-name')), []);
  await one.stop();
});

test('devices, blocks, privacy and push over HTTP', async () => {
  const { b, accounts: [account], one } = await pair();
  const other = await login(server.url, { user: account.user, password: `password of ${account.user}`, deviceName: 'second' });
  await one.start();
  const devices = await one.http.devices();
  assert.deepEqual(devices.map(({ name, current }) => [name, current ?? false]), [['node', true], ['second', false]]);
  await one.http.revoke(other.device);
  await assert.rejects(new Http(server.url, other.token).devices(), { code: 'unauthenticated' });
  await one.http.block(b);
  assert.deepEqual(await one.http.blocks(), [b]);
  await one.http.block(b, false);
  assert.deepEqual(await one.http.blocks(), []);
  await one.http.setPrivacy({ lastSeen: false });
  assert.deepEqual(await one.http.privacy(), { lastSeen: false });
  assert.equal(await one.http.subscription(), null);
  await one.http.vapidKey();
  let signedOut = null;
  one.on('signed_out', (event) => (signedOut = event));
  await one.http.logout();
  await until(() => signedOut, 'signed out');
  assert.equal(one.state, 'stopped');
  await one.stop();
});

test('a new device pages back through a long log, a page at a time', async () => {
  const { b, accounts, one, conv } = await pair();
  await one.start();
  const sendings = Array.from({ length: 300 }, (_, i) => one.send(b, `message ${i + 1}`));
  await Promise.all(sendings.map(({ sent }) => sent));
  await one.stop();
  const two = new Chatd({ url: server.url, ...accounts[1] });
  await two.start();
  await until(() => two.state === 'live', 'live');
  const pages = [];
  for (let before; before !== 1; before = pages.at(-1)[0].seq) pages.push(await two.messages(conv, { before, limit: 70 }));
  assert.deepEqual(pages.map((page) => page.length), [70, 70, 70, 70, 20]);
  assert.deepEqual(pages.reverse().flat().map(({ body }) => body), sendings.map((_, i) => `message ${i + 1}`));
  assert.equal(two.badge, 300);
  await two.stop();
});

test(`${MESSAGES} messages each way, cut ${CUTS} times, the server killed ${KILLS} times: both views are the server's log`, async () => {
  const random = seeded(SEED);
  const between = await proxy(() => server.port);
  const { a, b, accounts } = await pair();
  const storages = [memoryStorage({ messagesMax: 10_000 }), memoryStorage({ messagesMax: 10_000 })];
  // a patient clock would make this test wait: its own backoff is shortened, nothing else
  const chats = accounts.map((account, i) => new Chatd({ url: between.url, ...account, storage: storages[i], random: () => random() * 0.1 }));
  const conv = chats[0].convWith(b);
  const heard = chats.map((chat) => {
    const seqs = [];
    chat.on('message', ({ message, conv: of }) => {
      assert.equal(of, conv);
      seqs.push(message.seq);
      if (message.from !== chat.user && random() < 0.2) chat.read(conv, message.seq);
    });
    return seqs;
  });
  await Promise.all(chats.map((chat) => chat.start()));
  const sendings = [[], []];
  const total = () => heard[0].length + heard[1].length;
  const trouble = async () => {
    for (let i = 1; i <= CUTS + KILLS; i++) {
      await until(() => total() >= (i * 4 * MESSAGES) / (CUTS + KILLS + 1), () => `stuck at ${total()}`);
      if (i % Math.ceil((CUTS + KILLS) / (KILLS + 1)) === 0) {
        await server.kill();
        await server.start();
      } else {
        const links = [...between.links];
        links[Math.floor(random() * links.length)]?.cut();
      }
    }
  };
  const write = async () => {
    for (let i = 0; i < MESSAGES; i++) {
      for (const [which, chat] of chats.entries()) sendings[which].push(chat.send(which ? a : b, `${chat.user} ${i}`));
      if (i % 10 === 9) await until(() => chats.every((chat) => chat.outbox().length < 100), 'the outbox drains');
    }
  };
  await Promise.all([write(), trouble()]);
  const places = await Promise.all(sendings.flat().map(({ sent }) => sent));
  await until(() => chats.every((chat) => chat.state === 'live') && heard.every((seqs) => seqs.length === 2 * MESSAGES), () => JSON.stringify([chats.map((c) => c.state), heard.map((h) => h.length)]));

  const log = [];
  const http = new Http(server.url, accounts[0].token);
  for (let before; before !== 1; before = log[0].seq) log.unshift(...await http.history(conv, { before, limit: 200 }));
  assert.equal(log.length, 2 * MESSAGES);
  for (const [which, chat] of chats.entries()) {
    assert.deepEqual(heard[which], log.map(({ seq }) => seq), 'each once and in order');
    assert.deepEqual(await chat.messages(conv, { limit: 2 * MESSAGES }), log);
    const mine = log.filter(({ from }) => from === chat.user);
    assert.deepEqual(mine.map(({ body }) => body), sendings[which].map((_, i) => `${chat.user} ${i}`), 'in the order of the calls');
    assert.deepEqual(mine.map(({ id }) => id), sendings[which].map(({ id }) => id));
    assert.deepEqual(chat.outbox(), []);
  }
  assert.equal(new Set(places.map(({ seq }) => seq)).size, 2 * MESSAGES);
  await Promise.all(chats.map((chat) => chat.read(conv, 2 * MESSAGES)));
  await Promise.all(sendings.flat().map(({ read }) => read));
  // who wrote its last message early has all of its own read before the other has read to the end
  const told = () => chats.map((chat) => [chat.badge, chat.conversations()[0].peerRead]);
  await until(() => told().every(([badge, peerRead]) => badge === 0 && peerRead === 2 * MESSAGES), () => JSON.stringify(told()));
  await Promise.all(chats.map((chat) => chat.stop()));
  await between.close();
});
