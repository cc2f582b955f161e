// The log on the screen. What somebody looks at stays where it is, whatever comes above it or below it.

import { dayOf, day } from './format.js';
import { html } from './html.js';
import { clearNotifications } from './notify.js';
import { Message, Place, Unsent } from './message.js';
import { t } from './strings.js';
import { useEffect, useLayoutEffect, useMemo, useReducer, useRef } from './vendor/hooks.js';
import { useEvents } from './watching.js';
import { MessageWindow } from './window.js';

const NEAR_PX = 800; // a page is fetched when so little of what is there is left
const AT_END_PX = 48;

/** What keeps the view still: the topmost message in sight, and where it is. */
function topmost(log) {
  const top = log.getBoundingClientRect().top;
  for (const one of log.querySelectorAll('[data-seq]')) {
    const box = one.getBoundingClientRect();
    if (box.bottom > top) return { seq: one.dataset.seq, top: box.top - top };
  }
  return null;
}

/** The seq of the lowest message of which the beginning is in sight. */
function lowest(log) {
  const bottom = log.getBoundingClientRect().bottom;
  const all = [...log.querySelectorAll('[data-seq]')];
  const last = all.findLast((one) => one.getBoundingClientRect().top < bottom - 8);
  return last ? Number(last.dataset.seq) : 0;
}

export function Log({ chat, me, peer, conv }) {
  const [, again] = useReducer((n) => n + 1, 0);
  const log = useRef(null);
  const still = useRef({ atEnd: true, anchor: null, target: null, put: 0 });
  const row = () => chat.conversations().find((one) => one.conv === conv);
  const view = useMemo(() => new MessageWindow(
    (before, limit) => chat.messages(conv, { before, limit }),
    () => row()?.head ?? 0,
  ), [chat, conv]);
  const first = useRef(undefined);
  useEvents(chat, ['receipt', 'outbox', 'conversation'], (event) => event?.conv === undefined || event.conv === conv);

  // A page that could not be had is asked for again by the next scroll, or when the connection is back.
  const missing = useRef(false);
  const quietly = (work) => work.then((changed) => {
    const was = missing.current;
    missing.current = false;
    if (changed || was) again();
  }, () => {
    if (missing.current) return;
    missing.current = true;
    again();
  });
  const goEnd = () => {
    still.current = { atEnd: true, anchor: null, target: null, put: 0 };
    return view.atEnd ? (again(), Promise.resolve()) : quietly(view.openEnd());
  };
  const goTo = (seq) => {
    still.current = { atEnd: false, anchor: null, target: seq, put: 0 };
    return quietly(view.openAt(seq));
  };

  useEffect(() => {
    const known = row();
    const unread = known?.unread ?? 0;
    first.current = unread > 0 ? known.head - unread + 1 : null;
    if (unread > 10) goTo(first.current);
    else goEnd();
    const offs = [
      chat.on('message', ({ conv: of, message, mine }) => {
        if (of !== conv) return;
        if (mine && !still.current.atEnd && document.activeElement?.id === 'write') goEnd();
        if (!view.add(message)) return;
        if (!still.current.atEnd) view.letGo();
        later();
      }),
      chat.on('state', (state) => state === 'live' && (view.items.length ? look() : goEnd())),
      chat.on('reset', () => goEnd(view.forget())),
    ];
    let due = 0;
    const later = () => {
      due ||= requestAnimationFrame(() => {
        due = 0;
        again();
      });
    };
    return () => {
      cancelAnimationFrame(due);
      offs.forEach((off) => off());
    };
  }, [view]);

  // After each drawing, before the browser paints: what was looked at goes back to where it was.
  useLayoutEffect(() => {
    const box = log.current;
    const { atEnd, anchor, target, put } = still.current;
    // Somebody may have scrolled since, of which the event is still to come: that is not taken back.
    const scrolled = box.scrollTop - put;
    const left = scrolled < -1 && box.scrollHeight - box.scrollTop - box.clientHeight > AT_END_PX;
    if (target !== null) {
      if (view.busy) return;
      // without a connection it may not be there: then what comes next after it
      const all = [...box.querySelectorAll('[data-seq]')];
      const one = all.find(({ dataset }) => Number(dataset.seq) >= target) ?? all.at(-1);
      if (one) box.scrollTop += one.getBoundingClientRect().top - box.getBoundingClientRect().top - 60;
      still.current.target = null;
    } else if (atEnd && !left) {
      box.scrollTop = box.scrollHeight;
    } else if (anchor) {
      const one = box.querySelector(`[data-seq="${anchor.seq}"]`);
      if (one) box.scrollTop += one.getBoundingClientRect().top - box.getBoundingClientRect().top - (anchor.top - scrolled);
    }
    look();
  });

  function look() {
    const box = log.current;
    if (!box || still.current.target !== null || !view.items.length) return;
    const below = box.scrollHeight - box.scrollTop - box.clientHeight;
    const atEnd = view.atEnd && below < AT_END_PX;
    still.current = { atEnd, anchor: topmost(box), target: null, put: box.scrollTop };
    if (atEnd && view.settle()) again();
    if (box.scrollTop < NEAR_PX) quietly(view.older());
    else if (below < NEAR_PX) quietly(view.newer());
    readUpTo(atEnd ? view.items.at(-1).seq : lowest(box));
  }

  function readUpTo(seq) {
    const known = row();
    if (!known || peer === me || document.visibilityState !== 'visible' || !document.hasFocus()) return;
    const due = view.toRead(seq, known.read, me);
    if (!due) return;
    chat.read(conv, due);
    clearNotifications(me, conv, due);
  }

  useEffect(() => {
    let due = 0;
    const scrolled = () => {
      due ||= requestAnimationFrame(() => {
        due = 0;
        look();
        markButtons();
      });
    };
    const resized = new ResizeObserver(() => {
      if (still.current.atEnd) log.current.scrollTop = log.current.scrollHeight;
    });
    resized.observe(log.current);
    log.current.addEventListener('scroll', scrolled, { passive: true });
    addEventListener('focus', scrolled);
    document.addEventListener('visibilitychange', scrolled);
    return () => {
      cancelAnimationFrame(due);
      resized.disconnect();
      log.current?.removeEventListener('scroll', scrolled);
      removeEventListener('focus', scrolled);
      document.removeEventListener('visibilitychange', scrolled);
    };
  }, [view]);

  // The two buttons depend on the scroll alone, so they are switched without drawing everything again.
  const buttons = useRef(null);
  function markButtons() {
    const box = log.current;
    const seq = first.current;
    const mark = box.querySelector('.new-here');
    const above = seq !== null && seq !== undefined && view.items.length > 0
      && (mark ? mark.getBoundingClientRect().bottom < box.getBoundingClientRect().top : seq < view.items[0].seq);
    buttons.current.dataset.above = String(above);
    buttons.current.dataset.end = String(still.current.atEnd);
  }
  useLayoutEffect(markButtons);

  const known = row();
  const shownIds = new Set(view.items.map(({ id }) => id));
  const unsent = view.atEnd || !view.items.length ? chat.outbox(conv).filter(({ id }) => !shownIds.has(id)) : [];
  const parts = [];
  let lastDay = null;
  for (const entry of view.items) {
    const today = dayOf(entry.ts);
    if (today !== lastDay) parts.push(html`<li key=${`day ${today}`} class="day"><span>${day(entry.ts)}</span></li>`);
    lastDay = today;
    if (entry.seq === first.current) parts.push(html`<li key="new" class="new-here"><span>${t('newHere')}</span></li>`);
    parts.push(entry.gone
      ? html`<${Place} key=${entry.seq} entry=${entry} />`
      : html`<${Message} key=${entry.seq} entry=${entry} own=${entry.from === me} row=${entry.from === me && peer !== me ? known : null} />`);
  }
  return html`
    <div class="log-frame">
      <div class="log" role="log" aria-live="off" aria-label=${t('messagesWith', { user: peer })} tabindex="0" ref=${log}>
        <p class="edge">${t(view.atStart ? 'beginning' : missing.current ? 'olderLater' : 'loading')}</p>
        <ol>${parts}${unsent.map((one) => html`<${Unsent} key=${one.id} chat=${chat} one=${one} />`)}</ol>
      </div>
      <div class="jumps" ref=${buttons}>
        <button type="button" class="to-unread" onClick=${() => goTo(first.current)}>↑ ${t('toUnread')}</button>
        <button type="button" class="to-end" onClick=${goEnd}>↓ ${t('toEnd')}${known?.unread > 0 ? html` <span class="badge">${known.unread}</span>` : ''}</button>
      </div>
    </div>
  `;
}
