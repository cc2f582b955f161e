// The out-queue and the backoff, with literal times.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Backoff, OutQueue } from '../../chatd/web/sdk/outqueue.js';

const highest = () => 1;

function queue(count, { flyingMax = 128, to = 'bob' } = {}) {
  const q = new OutQueue(highest, 'alice', flyingMax);
  for (let i = 1; i <= count; i++) q.add({ order: i, id: `${to}${i}`, to, body: `body ${i}` });
  q.connected();
  return q;
}
const due = (q, nowMs) => q.due(nowMs).map(({ n, id }) => `${n} ${id}`);
const later = (code, retryAfterMs) => ({ code, temporary: true, retryAfterMs });

test('backoff is a random part of a doubling ceiling, and never less than was asked for', () => {
  const backoff = new Backoff(highest);
  assert.deepEqual(Array.from({ length: 8 }, () => backoff.nextMs()), [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  backoff.reset();
  assert.equal(backoff.nextMs(7000), 7000);
  assert.equal(backoff.nextMs(100), 1000);
  assert.equal(new Backoff(() => 0.25).nextMs(), 125);
});

test('sends are numbered from one on each connection, and sent once', () => {
  const q = queue(2);
  assert.deepEqual(due(q, 0), ['1 bob1', '2 bob2']);
  assert.deepEqual(due(q, 99), []);
  q.connected();
  assert.deepEqual(due(q, 100), ['1 bob1', '2 bob2']);
});

test('an answered send is not repeated', () => {
  const q = queue(2);
  due(q, 0);
  assert.equal(q.sent('bob1').body, 'body 1');
  assert.equal(q.sent('bob1'), undefined);
  q.connected();
  assert.deepEqual(due(q, 1), ['1 bob2']);
});

test('a temporary refusal holds its conversation and no other; then everything goes in its order, before anything new', () => {
  const q = queue(2);
  due(q, 0);
  assert.equal(q.refused('bob1', later('overloaded', 500), 1000), 'retry');
  assert.equal(q.refused('bob2', later('out_of_order'), 1000), 'retry');
  q.add({ order: 3, id: 'bob3', to: 'bob', body: 'x' });
  q.add({ order: 4, id: 'carol1', to: 'carol', body: 'x' });
  assert.deepEqual(due(q, 1000), ['3 carol1']);
  assert.equal(q.deadlineMs(), 1500);
  assert.deepEqual(due(q, 1499), []);
  assert.deepEqual(due(q, 1500), ['4 bob1', '5 bob2', '6 bob3']);
});

test('a repetition waits until what was sent after it is answered', () => {
  const q = queue(3);
  due(q, 0);
  q.refused('bob1', later('overloaded', 1), 1000);
  assert.deepEqual([due(q, 2000), q.deadlineMs()], [[], null]);
  q.refused('bob2', later('out_of_order'), 2000);
  assert.deepEqual(due(q, 2000), []);
  q.refused('bob3', later('out_of_order'), 2000);
  assert.deepEqual(due(q, 2000), ['4 bob1', '5 bob2', '6 bob3']);
});

test('refused again while it repeats, the order stays', () => {
  const q = queue(3);
  due(q, 0);
  q.refused('bob1', later('unavailable', 10), 0);
  for (const id of ['bob2', 'bob3']) q.refused(id, later('out_of_order'), 0);
  assert.deepEqual(due(q, 10), ['4 bob1', '5 bob2', '6 bob3']);
  q.sent('bob1');
  q.refused('bob2', later('unavailable', 10), 10);
  q.refused('bob3', later('out_of_order'), 10);
  assert.deepEqual(due(q, 20), ['7 bob2', '8 bob3']);
});

test('a refusal without a time backs off', () => {
  const q = queue(1);
  for (const [nowMs, thenMs] of [[0, 500], [10_000, 11_000], [20_000, 22_000]]) {
    assert.equal(due(q, nowMs).length, 1);
    q.refused('bob1', later('unavailable'), nowMs);
    assert.equal(q.deadlineMs(), thenMs);
  }
});

test('what the server asked for holds on the next connection', () => {
  const q = queue(1);
  due(q, 0);
  q.refused('bob1', later('rate_limited', 60_000), 0);
  q.connected();
  assert.deepEqual(due(q, 59_999), []);
  assert.deepEqual(due(q, 60_000), ['1 bob1']);
});

test('a permanent refusal lets the next one pass', () => {
  const q = queue(2);
  due(q, 0);
  assert.equal(q.refused('bob1', { code: 'not_found', temporary: false }, 0), 'failed');
  assert.deepEqual([...q.values()].map(({ id }) => id), ['bob2']);
});

test('out_of_order for the first of a conversation asks for a new connection', () => {
  const q = queue(2);
  due(q, 0);
  q.sent('bob1');
  assert.equal(q.refused('bob2', later('out_of_order'), 0), 'reconnect');
  assert.equal(q.deadlineMs(), 500);
});

test('to a user and into the conversation with it is one order', () => {
  const q = queue(1);
  q.add({ order: 2, id: 'c2', conv: 'alice:bob', body: 'second' });
  due(q, 0);
  q.refused('bob1', later('overloaded', 1000), 0);
  q.refused('c2', later('out_of_order'), 0);
  assert.deepEqual(due(q, 999), []);
  assert.deepEqual(due(q, 1000), ['3 bob1', '4 c2']);
});

test('who was too fast sends one, and then more as they are answered', () => {
  const q = queue(8, { flyingMax: 4 });
  assert.equal(due(q, 0).length, 4);
  q.refused('bob1', later('rate_limited', 20), 0);
  for (const id of ['bob2', 'bob3', 'bob4']) q.refused(id, later('out_of_order'), 0);
  assert.deepEqual([due(q, 10), q.deadlineMs()], [[], 20]);
  const sent = [];
  while (q.size) {
    sent.push(q.due(20).map(({ id }) => id));
    assert.deepEqual(due(q, 20), []); // not before an answer
    for (const id of sent.at(-1)) q.sent(id);
  }
  assert.deepEqual(sent, [['bob1'], ['bob2', 'bob3'], ['bob4', 'bob5', 'bob6', 'bob7'], ['bob8']]);
});

test('no more than the bound are sent ahead of their answers', () => {
  const q = queue(5, { flyingMax: 2 });
  assert.deepEqual([due(q, 0), due(q, 0), q.deadlineMs()], [['1 bob1', '2 bob2'], [], null]);
  q.sent('bob1');
  assert.deepEqual(due(q, 0), ['3 bob3']);
});
