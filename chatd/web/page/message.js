// One message, one place without one, one message that is not sent yet.

import { announce } from './announcer.js';
import { clock, full } from './format.js';
import { html } from './html.js';
import { goneText } from './list.js';
import { t } from './strings.js';
import { Tick, tickOf } from './ticks.js';

const ADDRESS = /\bhttps?:\/\/[^\s<>"'`]+[^\s<>"'`.,;:!?)\]}]/giu;

/** A body as text and links, in order; put together they are the body. @param {string} body */
export function linked(body) {
  const parts = [];
  let at = 0;
  for (const { 0: address, index } of body.matchAll(ADDRESS)) {
    if (!URL.canParse(address)) continue;
    if (index > at) parts.push(body.slice(at, index));
    parts.push(html`<a href=${address} target="_blank" rel="noopener noreferrer nofollow ugc">${address}</a>`);
    at = index + address.length;
  }
  if (at < body.length) parts.push(body.slice(at));
  return parts;
}

async function copy(body) {
  try {
    await navigator.clipboard.writeText(body);
    announce(t('copied'));
  } catch {
    announce(''); // not allowed, or no secure context: the text can still be selected
  }
}

/** `row`: for one's own messages, to tell how far the peer is. */
export function Message({ entry, own, row }) {
  const { seq, ts, body } = entry;
  return html`
    <li class=${own ? 'message own' : 'message'} data-seq=${seq}>
      <div class="bubble">
        <span class="unseen">${own ? t('you') : entry.from}: </span>
        <div class="body" dir="auto">${linked(body)}</div>
        <div class="foot">
          <button type="button" class="copy" onClick=${() => copy(body)}>${t('copy')}</button>
          <time datetime=${new Date(ts).toISOString()} title=${full(ts)}>${clock(ts)}</time>
          ${row && html` <${Tick} tick=${tickOf(seq, row)} />`}
        </div>
      </div>
    </li>
  `;
}

export const Place = ({ entry }) => html`<li class="gone" data-seq=${entry.seq}><span>${goneText(entry.gone)}</span></li>`;

const gone = () => {}; // another tab was quicker

/** @param {string} code */
export function why(code) {
  const known = { not_found: 'unknownUser', too_large: 'tooLarge', forbidden: 'forbidden' };
  return known[code] ? t(known[code]) : code;
}

export function Unsent({ chat, one }) {
  const { id, body, failed } = one;
  return html`
    <li class="message own unsent" data-id=${id} data-failed=${failed ?? ''}>
      <div class="bubble">
        <span class="unseen">${t('you')}: </span>
        <div class="body" dir="auto">${linked(body)}</div>
        <div class="foot">
          ${failed && html`<span class="problem">${t('failed', { why: why(failed) })}</span>
            <button type="button" onClick=${() => chat.retry(id).catch(gone)}>${t('retry')}</button>
            <button type="button" onClick=${() => chat.discard(id).catch(gone)}>${t('discard')}</button>`}
          <button type="button" class="copy" onClick=${() => copy(body)}>${t('copy')}</button>
          ${!failed && html`<${Tick} tick="sending" />`}
        </div>
      </div>
    </li>
  `;
}
