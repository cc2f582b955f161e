// Positions, rows and hints.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Hints } from '../../chatd/web/sdk/hints.js';
import { PREVIEW_CHARS_MAX, Rows, unreadOf } from '../../chatd/web/sdk/rows.js';
import { Watermarks } from '../../chatd/web/sdk/watermarks.js';
import { message } from './fakes.js';

const C = 'alice:bob';
const seqs = (entries) => entries.map(({ seq }) => seq);

test('each place once, in order, and a gap stops it', () => {
  const marks = new Watermarks();
  assert.deepEqual(seqs(marks.messages(C, [message(5), message(6)])), [5, 6]);
  assert.deepEqual(seqs(marks.messages(C, [message(6), message(7)])), [7]);
  assert.deepEqual(seqs(marks.messages(C, [message(9)])), []);
  assert.deepEqual([marks.behind(), marks.seen(C)], [[C], 7]);
  assert.deepEqual(seqs(marks.messages(C, [message(8), message(9)], true)), [8, 9]);
  assert.deepEqual(marks.behind(), []);
});

test('a place that stands for many is the next one, and is cut to what is missing', () => {
  const marks = new Watermarks();
  marks.load(C, 3);
  assert.deepEqual(marks.messages(C, [{ seq: 9, ts: 1, gone: 'expired', first: 1 }]), [{ seq: 9, ts: 1, gone: 'expired', first: 4 }]);
  assert.deepEqual(seqs(marks.messages(C, [message(10)])), [10]);
});

test('an own message is placed when it is next; in an unknown log only after catch-up', () => {
  const marks = new Watermarks();
  assert.equal(marks.sent(C, 4, { caughtUp: false, held: true }), false);
  marks.caughtUp();
  assert.deepEqual([marks.behind(), marks.seen(C)], [[C], 3]);
  assert.equal(marks.sent('alice:carol', 1, { caughtUp: false, held: true }), true);
  assert.equal(marks.sent('alice:carol', 2, { caughtUp: false, held: false }), false);
  assert.deepEqual(marks.behind(), [C, 'alice:carol']);
});

test('what was acknowledged and lost is fetched', () => {
  const marks = new Watermarks();
  marks.load(C, 3);
  marks.caughtUp([[C, 5], ['alice:carol', 9]]);
  assert.deepEqual(marks.behind(), [C]);
});

test('a hello carries the positions that were stored last', () => {
  const marks = new Watermarks();
  for (const conv of ['a:b', 'a:c', 'a:d']) marks.load(conv, 1);
  marks.stored('a:b', 2);
  assert.deepEqual(marks.newest(2), { 'a:d': 1, 'a:b': 2 });
  marks.forget();
  assert.deepEqual([marks.newest(9), marks.seen('a:b')], [{}, undefined]);
});

const listed = (more) => ({ conv: C, peer: 'bob', head: 0, delivered: 0, read: 0, peer_delivered: 0, peer_read: 0, unread: 0, updated: 0, ...more });

test('unread is computed: own messages, marks and hidden places move its floor', () => {
  const rows = new Rows('alice');
  rows.listed(listed({ head: 5, unread: 3 }));
  assert.equal(rows.badge, 3);
  rows.noted(C, message(6));
  assert.equal(rows.badge, 4);
  rows.noted(C, { seq: 7, ts: 1, gone: 'hidden' });
  assert.equal(rows.badge, 4);
  rows.raise(C, { read: 4 });
  assert.equal(unreadOf(rows.get(C)), 3);
  rows.noted(C, { seq: 8, ts: 1, gone: 'expired', first: 8 });
  assert.equal(rows.badge, 0);
  rows.noted(C, message(9));
  rows.noted(C, message(10, 'alice'));
  assert.equal(rows.badge, 0);
});

test('rows of any age are merged as maxima', () => {
  const [one, other] = [new Rows('alice'), new Rows('alice')];
  const states = [message(1), message(2), message(3, 'alice'), message(4)].map((entry) => one.noted(C, entry));
  states.push(one.raise(C, { peerDelivered: 3 }), one.raise(C, { peerRead: 3, peerDelivered: 2 }));
  for (const row of states.reverse()) other.merge(row);
  assert.deepEqual(other.get(C), one.get(C));
  assert.equal(other.badge, 1);
  assert.equal(other.merge(one.get(C)), null);
});

test('notes to self are delivered and read by the peer that one is', () => {
  const rows = new Rows('alice');
  const row = rows.noted('alice:alice', message(1, 'alice'));
  assert.deepEqual([row.peer, row.peerDelivered, row.peerRead], ['alice', 1, 0]);
});

test('a long last message is cut, and never in half a character', () => {
  const rows = new Rows('alice');
  rows.noted(C, message(1, 'bob', `${'x'.repeat(PREVIEW_CHARS_MAX - 1)}😀😀`));
  assert.equal(rows.get(C).last.body, 'x'.repeat(PREVIEW_CHARS_MAX - 1));
});

test('watches: asked once, again after a reconnect, and after the first message of a conversation', () => {
  const hints = new Hints();
  let ref = 0;
  const due = (nowMs) => hints.due(nowMs, () => ++ref);
  hints.connected();
  hints.watch(['bob', 'carol']);
  assert.deepEqual(due(0), [{ type: 'watch', users: ['bob', 'carol'], ref: 1 }]);
  assert.deepEqual(hints.onPresence({ type: 'presence', ref: 1, states: [{ user: 'bob', state: 'online' }] }), [{ user: 'bob', state: 'online' }]);
  hints.onMessage('alice:carol', 'carol', 1, 'carol');
  assert.deepEqual(due(1), [{ type: 'watch', users: ['carol'], ref: 2 }]);
  hints.watch(['bob']);
  assert.deepEqual(due(2), [{ type: 'unwatch', users: ['carol'] }]);
  hints.disconnected();
  assert.deepEqual(hints.known(), []);
  hints.connected();
  assert.deepEqual(due(3), [{ type: 'watch', users: ['bob'], ref: 3 }]);
  hints.refused(3, 3, true);
  assert.deepEqual([due(2002), due(2003)], [[], [{ type: 'watch', users: ['bob'], ref: 4 }]]);
});

test('typing: told once in 3 s; heard for 6 s, or until a message comes', () => {
  const hints = new Hints();
  hints.connected();
  for (const nowMs of [0, 2999, 3000]) hints.typing(C, true, nowMs);
  assert.equal(hints.due(3000, () => 0).length, 1);
  assert.equal(hints.onTyping({ type: 'typing', conv: C, user: 'bob', on: true }, 1000).length, 1);
  assert.deepEqual([hints.deadlineMs(), hints.expired(6999), hints.expired(7000)], [7000, [], [{ conv: C, user: 'bob', on: false }]]);
  hints.onTyping({ type: 'typing', conv: C, user: 'bob', on: true }, 8000);
  assert.deepEqual(hints.onMessage(C, 'bob', 2, 'bob'), [{ conv: C, user: 'bob', on: false }]);
});
