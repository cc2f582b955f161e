// The run of messages on the screen, and what of it counts as read.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MessageWindow, PAGE_MESSAGES, WINDOW_MESSAGES_MAX } from '../../chatd/web/page/window.js';

const entry = (seq, from = 'bob') => ({ seq, id: `i${seq}`, from, ts: seq, body: `m${seq}` });

/** A window on a log of so many messages, and the log. */
function windowOn(count, from = () => 'bob') {
  const log = Array.from({ length: count }, (_, at) => entry(at + 1, from(at + 1)));
  const fetch = async (before, limit) => log.filter(({ seq }) => before === undefined || seq < before).slice(-limit);
  return [new MessageWindow(fetch, () => log.length), log];
}

const seqs = (view) => [view.items[0]?.seq, view.items.at(-1)?.seq, view.items.length];

test('it opens at the end, moves back a page at a time, and holds no more than its bound', async () => {
  const [view] = windowOn(1_000);
  assert.equal(await view.openEnd(), true);
  assert.deepEqual(seqs(view), [901, 1_000, PAGE_MESSAGES]);
  for (let page = 0; page < 4; page++) assert.equal(await view.older(), true);
  assert.deepEqual(seqs(view), [501, 800, WINDOW_MESSAGES_MAX]);
  assert.equal(view.atEnd, false);
  assert.equal(view.add(entry(1_001)), false, 'what comes at an end that is not shown is not shown');
  assert.equal(await view.newer(), true);
  assert.deepEqual(seqs(view), [601, 900, WINDOW_MESSAGES_MAX]);
});

test('it knows the beginning and the end', async () => {
  const [view] = windowOn(150);
  await view.openEnd();
  assert.deepEqual([view.atStart, view.atEnd], [false, true]);
  await view.older();
  assert.deepEqual([view.atStart, await view.older()], [true, false]);
  assert.deepEqual([view.add(entry(151)), view.add(entry(151)), view.items.length], [true, true, 151]);
});

test('what the other wrote is read up to what was seen', async () => {
  const [view] = windowOn(10);
  await view.openEnd();
  assert.equal(view.toRead(7, 0, 'alice'), 7);
  assert.equal(view.toRead(7, 7, 'alice'), 0);
  assert.equal(view.toRead(3, 7, 'alice'), 0, 'a mark does not move back');
});

test("one's own messages need no mark, but what stands before them does", async () => {
  const [view] = windowOn(10, (seq) => (seq > 6 ? 'alice' : 'bob'));
  await view.openEnd();
  assert.equal(view.toRead(10, 2, 'alice'), 6, 'she wrote without having looked at the last four');
  assert.equal(view.toRead(10, 6, 'alice'), 0);
});

test('what is above the window may be of the other, and is read with what is below it', async () => {
  const [view] = windowOn(400, (seq) => (seq > 250 ? 'alice' : 'bob'));
  await view.openEnd();
  assert.equal(view.toRead(400, 200, 'alice'), 300);
  assert.equal(view.toRead(400, 300, 'alice'), 0);
});
