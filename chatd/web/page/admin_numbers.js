// What the administration's charts show: rates and quantiles from two looks at the processes. Pure.

/** @typedef {{ bounds: number[], counts: number[], sum: number }} Buckets counts[i] values up to bounds[i], the last without a bound */
/** @typedef {{ name: string, pid: number, up_s: number, counters: Record<string, number>, gauges: Record<string, number>,
 *   histograms: Record<string, Buckets>, connections: number, users: number, rss_bytes: number }} Snapshot */
/** @typedef {{ rates: Record<string, number>, values: Record<string, Buckets>, levels: Record<string, number> }} Reading */

export const SAMPLES_MAX = 120;

/** The value that a share q of all does not exceed; null: no values; Infinity: above the last bound. @param {Buckets | undefined} values @param {number} q */
export function quantile(values, q) {
  const count = values ? values.counts.reduce((a, b) => a + b, 0) : 0;
  if (!values || !count) return null;
  const rank = q * count;
  let below = 0;
  let lower = 0;
  for (const [i, bound] of values.bounds.entries()) {
    const inside = values.counts[i];
    if (inside && below + inside >= rank) return lower + ((bound - lower) * Math.max(0, rank - below)) / inside;
    below += inside;
    lower = bound;
  }
  return Infinity;
}

/** @param {Record<string, number>} into @param {Record<string, number>} table */
function add(into, table) {
  for (const [name, value] of Object.entries(table)) into[name] = (into[name] ?? 0) + value;
}

/** @param {Buckets} now @param {Buckets | undefined} old */
function less(now, old) {
  if (!old || String(old.bounds) !== String(now.bounds)) return now;
  return { bounds: now.bounds, counts: now.counts.map((n, i) => Math.max(0, n - old.counts[i])), sum: now.sum - old.sum };
}

/** @param {Record<string, Buckets>} into @param {string} name @param {Buckets} one */
function join(into, name, one) {
  const so = into[name];
  if (!so) into[name] = one;
  else if (String(so.bounds) === String(one.bounds)) {
    into[name] = { bounds: so.bounds, counts: so.counts.map((n, i) => n + one.counts[i]), sum: so.sum + one.sum };
  }
}

const keyOf = ({ name, pid }) => `${name}#${pid}`;

/**
 * What the processes counted between two looks, each by its own clock; null: none of them is in both.
 * @param {Snapshot[]} before @param {Snapshot[]} after @returns {Reading | null}
 */
export function between(before, after) {
  const olds = new Map(before.map((one) => [keyOf(one), one]));
  /** @type {Reading} */
  const reading = { rates: {}, values: {}, levels: levels(after) };
  let compared = 0;
  for (const now of after) {
    const old = olds.get(keyOf(now));
    const tookS = old ? now.up_s - old.up_s : 0;
    if (!old || tookS <= 0) continue;
    compared += 1;
    add(reading.rates, Object.fromEntries(Object.entries(now.counters).map(([name, value]) => [name, Math.max(0, value - (old.counters[name] ?? 0)) / tookS])));
    for (const [name, one] of Object.entries(now.histograms)) join(reading.values, name, less(one, old.histograms[name]));
  }
  return compared ? reading : null;
}

/** Gauges and what stands beside them, of all processes; of what is measured in seconds the worst. @param {Snapshot[]} all */
export function levels(all) {
  /** @type {Record<string, number>} */
  const sums = { connections: 0, users: 0, rss_bytes: 0 };
  for (const one of all) {
    add(sums, { connections: one.connections, users: one.users, rss_bytes: one.rss_bytes });
    for (const [name, value] of Object.entries(one.gauges)) {
      if (name === 'connections') continue;
      sums[name] = name.endsWith('_seconds') ? Math.max(sums[name] ?? 0, value) : (sums[name] ?? 0) + value;
    }
  }
  return sums;
}

/** The last readings, oldest first, at most `max`. */
export class History {
  /** @type {Reading[]} */
  readings = [];
  /** @type {Snapshot[]} */
  #last = [];

  constructor(max = SAMPLES_MAX) {
    this.max = max;
  }

  /** Another look. @param {Snapshot[]} processes */
  add(processes) {
    const reading = between(this.#last, processes);
    this.#last = processes;
    if (reading) this.readings = [...this.readings, reading].slice(-this.max);
  }
}

/**
 * The corners of a line through the values in a box, the newest at the right, from 0 to the largest; gaps break it.
 * @param {(number | null)[]} values @param {{ width: number, height: number, places?: number }} box @returns {string[]} of polylines
 */
export function lines(values, { width, height, places = SAMPLES_MAX }) {
  const shown = values.slice(-places);
  const top = Math.max(0, ...shown.filter((one) => one !== null && Number.isFinite(one)).map(Number)) || 1;
  /** @type {string[][]} */
  const parts = [[]];
  shown.forEach((value, i) => {
    if (value === null) {
      parts.push([]);
      return;
    }
    const x = width - ((shown.length - 1 - i) * width) / (places - 1);
    const y = height - (Math.min(value, top) / top) * height;
    parts[parts.length - 1].push(`${Number(x.toFixed(1))},${Number(y.toFixed(1))}`);
  });
  return parts.filter((part) => part.length).map((part) => (part.length === 1 ? `${part[0]} ${part[0]}` : part.join(' ')));
}

/** Three digits and a unit. @param {number | null} seconds @param {(n: number) => string} number */
export function took(seconds, number) {
  if (seconds === null) return '–';
  if (!Number.isFinite(seconds)) return '∞';
  if (seconds >= 0.9995) return `${number(seconds)} s`;
  if (seconds >= 0.0009995) return `${number(seconds * 1e3)} ms`;
  return `${number(seconds * 1e6)} µs`;
}

/** @param {number} bytes @param {(n: number) => string} number */
export function size(bytes, number) {
  let unit = 0;
  for (; bytes >= 1_000 && unit < 3; unit += 1) bytes /= 1_024;
  return `${number(bytes)} ${['B', 'KiB', 'MiB', 'GiB'][unit]}`;
}
