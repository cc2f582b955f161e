// The administration: how the server is in charts, and its users. Loaded by administrators alone.

import { People } from './admin_people.js';
import { History, lines, quantile, size, took } from './admin_numbers.js';
import { w } from './admin_words.js';
import { html } from './html.js';
import { reason } from './settings.js';
import { regional, t } from './strings.js';
import { useEffect, useRef, useState } from './vendor/hooks.js';

// A chart that moves every two seconds is too much for who asked for less motion.
const EVERY_MS = matchMedia('(prefers-reduced-motion: reduce)').matches ? 10_000 : 2_000;
const BOX = { width: 240, height: 60 };

const number = (n) => new Intl.NumberFormat(regional(), { maximumSignificantDigits: 3 }).format(n);
const whole = (n) => new Intl.NumberFormat(regional(), { maximumFractionDigits: 0 }).format(n);
const perSecond = (n) => w('perSecond', { n: number(n) });
const latency = (seconds) => took(seconds, number);

/** Each chart: its title, its value in a reading, and how that is written. */
const CHARTS = [
  ['messages', ({ rates }) => rates.messages_committed ?? 0, perSecond],
  ['delivered', ({ rates }) => (rates.messages_live ?? 0) + (rates.messages_read ?? 0), perSecond],
  ['connections', ({ levels }) => levels.connections, whole],
  ['sent', ({ values }) => quantile(values.sent_seconds, 0.99), latency, 'sent_seconds'],
  ['arrived', ({ values }) => quantile(values.delivered_online_seconds, 0.99), latency, 'delivered_online_seconds'],
  ['commit', ({ values }) => quantile(values.commit_seconds, 0.99), latency, 'commit_seconds'],
  ['loop', ({ values }) => quantile(values.loop_lag_seconds, 0.99), latency, 'loop_lag_seconds'],
  ['queue', ({ levels }) => levels.queue_drafts ?? 0, whole],
  ['memory', ({ levels }) => levels.rss_bytes, (n) => size(n, number)],
];

/** Ask again and again, but not while paused or out of sight. */
function useStats(chat, paused) {
  const history = useRef(new History());
  const [processes, setProcesses] = useState([]);
  const [problem, setProblem] = useState('');
  const [denied, setDenied] = useState(false);
  useEffect(() => {
    if (paused) return undefined;
    let timer = 0;
    let gone = false;
    const look = async () => {
      try {
        if (document.visibilityState === 'visible') {
          const answer = await chat.http.call('GET', '/v1/admin/stats');
          if (gone) return;
          history.current.add(answer.processes);
          setProcesses(answer.processes);
          setProblem('');
          setDenied(false);
        }
      } catch (error) {
        if (gone) return;
        setProblem(reason(error));
        setDenied(error.code === 'forbidden');
      }
      if (!gone) timer = setTimeout(look, EVERY_MS);
    };
    look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [chat, paused]);
  return { processes, problem, denied, readings: history.current.readings };
}

export function AdminPage({ chat, me }) {
  const [paused, setPaused] = useState(false);
  const { processes, problem, denied, readings } = useStats(chat, paused);
  return html`
    <section class="settings admin" aria-labelledby="admin-title">
      <header><a class="button back" href="#/settings" aria-label=${t('back')}><span aria-hidden="true">‹</span></a><h1 id="admin-title">${t('admin')}</h1>
        <button type="button" id="pause" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>${w('pause')}</button></header>
      <div class="pages">
        <p role="alert" class="problem">${problem}</p>
        ${!denied && html`
        ${processes.length > 0 && html`<${State} processes=${processes} />`}
        <h2>${w('figures')}</h2>
        ${readings.length
          ? html`<div class="charts">${CHARTS.map(([name, value, write, histogram]) => html`<${Chart} key=${name} name=${name} title=${w(name)} readings=${readings} value=${value} write=${write} histogram=${histogram} />`)}</div>`
          : html`<p>${w('noFigures')}</p>`}
        ${processes.length > 1 && html`<${Processes} processes=${processes} />`}
        <${Hot} processes=${processes} />
        <${Slow} processes=${processes} />
        <${People} chat=${chat} me=${me} />`}
      </div>
    </section>
  `;
}

function State({ processes }) {
  const bad = processes.find((one) => !one.ready);
  const [{ version, store, durability, host, cluster_processes }] = processes;
  const elsewhere = (cluster_processes ?? 0) - processes.length;
  const upS = Math.min(...processes.map(({ up_s }) => up_s));
  const [amount, unit] = [[86_400, 'day'], [3_600, 'hour'], [60, 'minute'], [0, 'second']].filter(([from]) => upS >= from).map(([from, name]) => [upS / (from || 1), name])[0];
  const time = new Intl.NumberFormat(regional(), { style: 'unit', unit, unitDisplay: 'long', maximumFractionDigits: 0 }).format(Math.floor(amount));
  const text = !bad ? w('ready') : bad.draining ? w('draining') : w('notReady', { why: bad.why });
  return html`<p id="server-state" class=${bad ? 'problem' : ''}><strong>${text}</strong> · ${w('processes', { n: processes.length, host })} · ${w('up', { version, time, store, durability })}</p>
    ${elsewhere > 0 && html`<p id="elsewhere">${w('elsewhere', { n: elsewhere })}</p>`}`;
}

function Chart({ name, title, readings, value, write, histogram }) {
  const values = readings.map(value);
  const now = values.at(-1);
  const most = values.every((one) => one === null) ? null : Math.max(...values.filter((one) => one !== null));
  const last = readings.at(-1);
  const text = now === null ? '–'
    : histogram ? `${w('half', { time: write(quantile(last.values[histogram], 0.5)) })}, ${w('ninetyNine', { time: write(now) })}`
    : name === 'connections' ? w('ofUsers', { n: write(now), users: whole(last.levels.users) }) : write(now);
  const summary = w('summary', { title, now: now === null ? '–' : write(now), most: most === null ? '–' : write(most) });
  return html`
    <figure class="chart" data-chart=${name}>
      <figcaption><span>${title}</span> <strong>${text}</strong></figcaption>
      <svg role="img" aria-label=${summary} viewBox="0 -2 ${BOX.width} ${BOX.height + 4}" preserveAspectRatio="none">
        <line class="base" x1="0" x2=${BOX.width} y1=${BOX.height} y2=${BOX.height} />
        ${lines(values, BOX).map((points, i) => html`<polyline key=${i} points=${points} />`)}
      </svg>
    </figure>
  `;
}

/** A table that may be wider than the screen: who has no mouse scrolls it with the keys. */
export function Table({ label, heads, children }) {
  return html`<div class="wide-table" role="region" aria-label=${label} tabindex="0"><table>
    <thead><tr>${heads.map((head) => html`<th key=${head} scope="col">${head}</th>`)}</tr></thead><tbody>${children}</tbody></table></div>`;
}

function Processes({ processes }) {
  return html`<h2>${w('process')}</h2>
    <${Table} label=${w('process')} heads=${[w('process'), w('state'), w('connections'), w('memory')]}>
      ${processes.map((one) => html`<tr key=${`${one.name}#${one.pid}`}><th scope="row">${one.name || one.pid}</th>
        <td>${one.ready ? w('ready') : w('notReady', { why: one.why })}</td><td>${whole(one.connections)}</td><td>${size(one.rss_bytes, number)}</td></tr>`)}<//>`;
}

const HOT_MAX = 20;
const SLOW_MAX = 10;

function Hot({ processes }) {
  const sums = new Map();
  for (const { conv, count } of processes.flatMap(({ hot }) => hot)) sums.set(conv, (sums.get(conv) ?? 0) + count);
  const rows = [...sums].sort((a, b) => b[1] - a[1]).slice(0, HOT_MAX);
  return html`<h2>${w('hot')}</h2><p>${w('hotHint')}</p>
    ${rows.length
      ? html`<${Table} label=${w('hot')} heads=${[w('conversation'), w('count')]}>
          ${rows.map(([conv, count]) => html`<tr key=${conv}><th scope="row"><bdi>${conv}</bdi></th><td>${whole(count)}</td></tr>`)}<//>`
      : html`<p>${w('nothing')}</p>`}`;
}

function Slow({ processes }) {
  const rows = processes.flatMap(({ slow }) => slow).sort((a, b) => b.full_s - a.full_s || b.owed_bytes - a.owed_bytes || b.unacked - a.unacked).slice(0, SLOW_MAX);
  return html`<h2>${w('slow')}</h2><p>${w('slowHint')}</p>
    ${rows.length
      ? html`<${Table} label=${w('slow')} heads=${[w('user'), w('device'), w('unacked'), w('owed'), w('full')]}>
          ${rows.map((one) => html`<tr key=${`${one.user} ${one.device}`}><th scope="row"><bdi>${one.user}</bdi></th><td>${one.device}</td>
            <td>${whole(one.unacked)}${one.behind ? '+' : ''}</td><td>${size(one.owed_bytes, number)}</td><td>${one.full_s ? took(one.full_s, number) : '–'}</td></tr>`)}<//>`
      : html`<p>${w('nothing')}</p>`}`;
}
