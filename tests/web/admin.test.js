// The numbers of the administration's charts: literal looks, literal results.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { History, between, levels, lines, quantile, size, took } from '../../chatd/web/page/admin_numbers.js';

const BOUNDS = [0.001, 0.01, 0.1];
const look = (more) => ({ name: 'a', pid: 7, up_s: 10, counters: {}, gauges: {}, histograms: {}, connections: 0, users: 0, rss_bytes: 0, ...more });
const buckets = (...counts) => ({ bounds: BOUNDS, counts, sum: 0 });

test('a quantile lies in its bucket by its share', () => {
  assert.equal(quantile(undefined, 0.5), null);
  assert.equal(quantile(buckets(0, 0, 0, 0), 0.5), null);
  assert.equal(quantile(buckets(10, 0, 0, 0), 0.5), 0.0005);
  assert.equal(quantile(buckets(5, 5, 0, 0), 0.9).toFixed(6), '0.008200');
  assert.equal(quantile(buckets(50, 48, 0, 2), 0.99), Infinity);
});

test('rates come from two looks, of each process by its own clock; one that started anew is not compared', () => {
  const before = [look({ counters: { commits: 100 } }), look({ name: 'b', pid: 1, counters: { commits: 5_000 } })];
  const after = [look({ up_s: 12, counters: { commits: 130, fresh: 4 } }), look({ name: 'b', pid: 2, up_s: 1, counters: { commits: 9 } })];
  assert.deepEqual(between(before, after).rates, { commits: 15, fresh: 2 });
  assert.equal(between(before, before), null);
  assert.equal(between([], after), null);
});

test('histograms are subtracted, and added where their bounds agree', () => {
  const before = [look({ histograms: { t: buckets(1, 2, 3, 4) } }), look({ name: 'b' })];
  const after = [look({ up_s: 11, histograms: { t: buckets(2, 2, 3, 6) } }), look({ name: 'b', up_s: 11, histograms: { t: buckets(0, 10, 0, 0) } })];
  assert.deepEqual(between(before, after).values.t.counts, [1, 10, 0, 2]);
  after[1].histograms.t = { bounds: [9], counts: [1, 1], sum: 0 };
  assert.deepEqual(between(before, after).values.t.counts, [1, 0, 0, 2]);
});

test('levels are added, and of what is measured in seconds the worst is shown', () => {
  const one = look({ connections: 3, users: 2, rss_bytes: 10, gauges: { connections: 3, push_lag_seconds: 2, queue_drafts: 4 } });
  const two = look({ connections: 4, users: 1, rss_bytes: 20, gauges: { connections: 4, push_lag_seconds: 1, queue_drafts: 6 } });
  assert.deepEqual(levels([one, two]), { connections: 7, users: 3, rss_bytes: 30, push_lag_seconds: 2, queue_drafts: 10 });
});

test('the history keeps the last readings', () => {
  const history = new History(3);
  for (let second = 0; second < 6; second += 1) {
    history.add([look({ up_s: second, counters: { commits: second ** 2 } })]);
    history.add([look({ up_s: second, counters: { commits: second ** 2 } })]); // the same again says nothing
  }
  assert.deepEqual(history.readings.map(({ rates }) => rates.commits), [5, 7, 9]);
});

test('a line goes from 0 to the largest value, its newest at the right, and breaks at a gap', () => {
  const box = { width: 100, height: 50, places: 5 };
  assert.deepEqual(lines([], box), []);
  assert.deepEqual(lines([0, 5, 10], box), ['50,50 75,25 100,0']);
  assert.deepEqual(lines([10, null, 5], box), ['50,0 50,0', '100,25 100,25']);
  assert.deepEqual(lines([1, Infinity], box), ['75,0 100,0']);
  assert.deepEqual(lines([0, 0], box), ['75,50 100,50']);
  assert.deepEqual(lines([9, 9, 9, 9, 9, 1, 2], { ...box, places: 2 }), ['0,25 100,0']);
});

test('figures have a unit', () => {
  const number = (n) => String(Number(n.toPrecision(3)));
  assert.deepEqual([null, Infinity, 0.00035, 0.0125, 2.5].map((n) => took(n, number)), ['–', '∞', '350 µs', '12.5 ms', '2.5 s']);
  assert.deepEqual([812, 65_536, 220_200_960].map((n) => size(n, number)), ['812 B', '64 KiB', '210 MiB']);
});
