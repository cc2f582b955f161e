// The conversations: newest first, with a search that also begins a new one.

import { isUser, peerOf } from '../sdk/chatd.js';
import { short } from './format.js';
import { html } from './html.js';
import { draft } from './kept.js';
import { Avatar, presenceText } from './person.js';
import { t } from './strings.js';
import { Tick, tickOf } from './ticks.js';
import { useEffect, useRef, useState } from './vendor/hooks.js';
import { useEvents } from './watching.js';

const ROWS_AT_FIRST = 100;
const EVENTS = ['conversation', 'message', 'receipt', 'presence', 'typing', 'outbox'];

/** The peer of the conversation so many places further. */
export function neighbour(chat, peer, step) {
  const peers = chat.conversations().map((row) => row.peer);
  const at = peers.indexOf(peer);
  return peers[at < 0 ? 0 : Math.min(peers.length - 1, Math.max(0, at + step))] ?? null;
}

/** The conversations, and before them those of which nothing was sent yet. */
function listed(chat, me) {
  const rows = chat.conversations();
  const known = new Set(rows.map(({ conv }) => conv));
  const begun = new Map();
  for (const { conv } of chat.outbox()) {
    if (!known.has(conv)) begun.set(conv, { conv, peer: peerOf(conv, me) ?? conv, head: 0, last: null, unread: 0, peerDelivered: 0, peerRead: 0 });
  }
  return begun.size ? [...begun.values(), ...rows] : rows;
}

const waitingOf = (chat, conv) => chat.outbox(conv).at(-1);

/** The users that write now, kept from the SDK's events. */
export function useTyping(chat) {
  const [typing, setTyping] = useState(() => new Set());
  useEffect(() => chat.on('typing', ({ user, on }) => setTyping((old) => {
    const next = new Set(old);
    if (on) next.add(user);
    else next.delete(user);
    return next;
  })), [chat]);
  return typing;
}

export function List({ chat, me, peer }) {
  useEvents(chat, EVENTS);
  const typing = useTyping(chat);
  const [query, setQuery] = useState('');
  const [shown, setShown] = useState(ROWS_AT_FIRST);
  const watched = useRef(new Set());
  const wanted = query.trim().toLowerCase();
  const all = listed(chat, me);
  const rows = wanted ? all.filter((row) => row.peer.includes(wanted) || row.last?.body?.toLowerCase().includes(wanted)) : all;
  const isNew = isUser(wanted) && !all.some((row) => row.peer === wanted);
  const peers = rows.slice(0, shown).map((row) => row.peer);

  useEffect(() => {
    const fresh = peers.filter((one) => one !== me && !watched.current.has(one));
    if (!fresh.length) return;
    fresh.forEach((one) => watched.current.add(one));
    chat.watch(fresh);
  }, [peers.join(' ')]);

  const go = (user) => {
    setQuery('');
    location.hash = `#/with/${encodeURIComponent(user)}`;
  };
  const submit = (event) => {
    event.preventDefault();
    if (isNew) go(wanted);
    else if (rows.length) go(rows[0].peer);
  };
  const move = (event) => {
    if (event.altKey || (event.key !== 'ArrowDown' && event.key !== 'ArrowUp')) return;
    const links = [...event.currentTarget.querySelectorAll('.rows a')];
    const at = links.indexOf(document.activeElement);
    const next = event.key === 'ArrowDown' ? at + 1 : at - 1;
    if (at < 0 && event.key === 'ArrowUp') return;
    (links[next] ?? (next < 0 ? document.getElementById('search') : links[at]))?.focus();
    event.preventDefault();
  };
  return html`
    <nav class="list" aria-label=${t('conversations')} onKeyDown=${move}>
      <div class="bar">
        <h1>chatd</h1><span class="me" dir="auto">${me}</span>
        <a class="button" href="#/settings">${t('settings')}</a>
      </div>
      <form role="search" onSubmit=${submit}>
        <input id="search" type="search" value=${query} placeholder=${t('search')} aria-label=${t('search')} maxlength="64"
          autocapitalize="none" autocomplete="off" spellcheck=${false} onInput=${(event) => setQuery(event.currentTarget.value)} />
      </form>
      ${isNew && html`<p><button type="button" class="wide" id="begin" onClick=${() => go(wanted)}>${t('writeTo', { user: wanted })}</button></p>`}
      <ul class="rows">
        ${rows.slice(0, shown).map((row) => html`<${Row} key=${row.conv} chat=${chat} me=${me} row=${row} open=${row.peer === peer} typing=${typing.has(row.peer)} />`)}
      </ul>
      ${rows.length > shown && html`<p><button type="button" class="wide" onClick=${() => setShown(shown + ROWS_AT_FIRST)}>${t('more')}</button></p>`}
      ${!rows.length && !isNew && html`<p class="empty">${all.length ? t('noneFound') : t('noneYet')}</p>`}
    </nav>
  `;
}

function Row({ chat, me, row, open, typing }) {
  const { peer, last, unread } = row;
  const presence = chat.presence(peer);
  const waiting = waitingOf(chat, row.conv);
  const started = open ? '' : draft(me, peer);
  return html`
    <li>
      <a href=${`#/with/${encodeURIComponent(peer)}`} aria-current=${open ? 'page' : undefined} data-peer=${peer}>
        <${Avatar} user=${peer} presence=${presence} />
        <span class="name" dir="auto">${peer === me ? t('notes') : peer}</span>
        <span class="unseen">${presenceText(presence)}</span>
        <span class="when">${last ? short(last.ts) : ''}</span>
        <span class="last">${typing
          ? html`<em>${t('typing')}</em>`
          : started
            ? html`<em>${t('draft')}: </em><bdi>${started.slice(0, 100)}</bdi>`
            : waiting
              ? html`<${Tick} tick=${waiting.failed ? 'failed' : 'sending'} why=${waiting.failed ?? ''} /> <bdi>${waiting.body.slice(0, 100)}</bdi>`
              : last && html`${last.from === me && peer !== me && html`<${Tick} tick=${tickOf(last.seq, row)} /> `}<bdi>${last.body?.slice(0, 100) ?? goneText(last.gone)}</bdi>`}</span>
        ${unread > 0 && html`<span class="badge"><span aria-hidden="true">${unread > 999 ? '999+' : unread}</span><span class="unseen">${t('unread', { n: unread })}</span></span>`}
      </a>
    </li>
  `;
}

/** What stands in the place of a message that is not there. @param {string | undefined} gone */
export const goneText = (gone) => t(gone === 'expired' ? 'expired' : gone === 'deleted' ? 'deleted' : 'hidden');
