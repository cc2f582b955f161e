// The codec, against the golden frames that every client's tests can read.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { checkSend, convOf, decode, isUser, newMessageId, peerOf } from '../../chatd/web/sdk/protocol.js';

const read = (name) => JSON.parse(readFileSync(new URL(`../golden/${name}`, import.meta.url), 'utf-8'));
const { frames } = read('frames.json');
const fromServer = frames.filter(({ direction }) => direction === 'server');

/** Without the defaults that `value` leaves out. */
const least = (value) => (Array.isArray(value) ? value.map(least) : value !== null && typeof value === 'object'
  ? Object.fromEntries(Object.entries(value).filter(([name, field]) => field !== false || !['duplicate', 'more'].includes(name)).map(([name, field]) => [name, least(field)]))
  : value);

for (const { name, text, valid, value, ignored } of fromServer) {
  test(`golden: ${name}`, () => {
    if (valid) assert.deepEqual(filled(least(decode(text))), filled(value));
    else if (ignored) assert.equal(decode(text), null);
    else assert.throws(() => decode(text), { code: 'bad_frame' });
  });
}

/** Limits that have a default may stand in the frame or not. */
function filled(frame) {
  if (frame.type !== 'welcome') return frame;
  return { ...frame, limits: { watermarks_max: 1000, page_items_max: 200, watches_max: 1000, watch_users_max: 200, ...frame.limits } };
}

test('there are golden frames of every type of the server', () => {
  const types = new Set(fromServer.filter(({ valid }) => valid).map(({ value }) => value.type));
  assert.deepEqual([...types].sort(), [
    'caught_up', 'conversations', 'error', 'goaway', 'messages', 'ok', 'pong', 'presence', 'receipt', 'sent', 'typing', 'welcome',
  ]);
});

test('what the server refuses in a send for its form is refused before it is stored, with the same code', () => {
  const bodies = frames.filter(({ direction, valid, stage, error, text }) => (
    direction === 'client' && !valid && stage === 'send' && error !== 'not_found'
    && (JSON.parse(text).to === undefined) !== (JSON.parse(text).conv === undefined)));
  assert.ok(bodies.length >= 3, `${bodies.length}`);
  for (const { name, text, error } of bodies) {
    assert.throws(() => checkSend(JSON.parse(text), { body_bytes_max: 16384, frame_bytes_max: 65536 }), { code: error }, name);
  }
});

test('valid sends and all naughty strings but the empty one pass', () => {
  const sends = frames.filter(({ direction, valid, value }) => direction === 'client' && valid && value.type === 'send');
  for (const { value } of sends) checkSend(value, null);
  for (const body of read('blns.json')) if (body) checkSend({ id: newMessageId(), to: 'bob', body }, null);
  assert.ok(sends.length > 0);
});

test('names', () => {
  assert.equal(convOf('bob', 'alice'), 'alice:bob');
  assert.deepEqual(['alice:bob', 'alice:alice', 'bob:carol', 'x', 'alice:bob:carol'].map((conv) => peerOf(conv, 'alice')), ['bob', 'alice', null, null, null]);
  assert.deepEqual(['bob', 'b.o-b_1', 'Bob', '', 'a:b', 'bob\n'].map(isUser), [true, true, false, false, false, false]);
});

test('ids are UUIDs of version 7, ordered by time', () => {
  const ids = [newMessageId(0), newMessageId(1_767_225_600_000), newMessageId(1_767_225_600_001)];
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual([...ids].sort(), ids);
  assert.ok(ids[1].startsWith('019b76da-a800-7'), ids[1]);
});
