// Times and days as people of the chosen language write them.

import { regional, t } from './strings.js';

const made = new Map();

/** @param {string} name @param {Intl.DateTimeFormatOptions} options */
function formatter(name, options) {
  const key = `${regional()} ${name}`;
  if (!made.has(key)) made.set(key, new Intl.DateTimeFormat(regional(), options));
  return made.get(key);
}

export const clock = (ms) => formatter('clock', { hour: '2-digit', minute: '2-digit' }).format(ms);
export const date = (ms) => formatter('date', { dateStyle: 'medium' }).format(ms);
export const full = (ms) => formatter('full', { dateStyle: 'full', timeStyle: 'short' }).format(ms);

/** The day's number in local time: the same for two times of one day. @param {number} ms */
export const dayOf = (ms) => Math.floor((ms - new Date(ms).getTimezoneOffset() * 60_000) / 86_400_000);

/** @param {number} ms @param {number} nowMs */
export function day(ms, nowMs = Date.now()) {
  const ago = dayOf(nowMs) - dayOf(ms);
  if (ago === 0) return t('today');
  if (ago === 1) return t('yesterday');
  return formatter('day', { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' }).format(ms);
}

/** As short as it can be: the time today, else the date. @param {number} ms @param {number} nowMs */
export const short = (ms, nowMs = Date.now()) =>
  dayOf(ms) === dayOf(nowMs) ? clock(ms) : formatter('short', { day: 'numeric', month: 'short' }).format(ms);

/** @param {number} ms */
export const when = (ms) => (dayOf(ms) === dayOf(Date.now()) ? clock(ms) : `${date(ms)}, ${clock(ms)}`);
