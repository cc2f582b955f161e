// How the connection is, in words. Its line is always there, so that nothing moves when it changes.

import { html } from './html.js';
import { t } from './strings.js';
import { useEvents } from './watching.js';
import { useEffect, useState } from './vendor/hooks.js';

export function Status({ chat, onRestart }) {
  useEvents(chat, ['state']);
  const [nowMs, setNowMs] = useState(Date.now());
  const [online, setOnline] = useState(navigator.onLine);
  const { state, retryAtMs } = chat;
  const waits = state === 'offline' && online && retryAtMs;
  useEffect(() => {
    const changed = () => setOnline(navigator.onLine);
    addEventListener('online', changed);
    addEventListener('offline', changed);
    return () => {
      removeEventListener('online', changed);
      removeEventListener('offline', changed);
    };
  }, []);
  useEffect(() => {
    if (!waits) return undefined;
    setNowMs(Date.now());
    const timer = setInterval(() => setNowMs(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, [waits]);
  // The browser knows at once that it has no network; the socket only learns of it when nothing answers.
  const name = !online && state !== 'stopped' ? 'offline' : state;
  // The seconds are for the eye: read out once a second they would drown everything else.
  const seconds = waits ? t('retryIn', { n: Math.max(0, Math.ceil((retryAtMs - nowMs) / 1_000)) }) : null;
  return html`
    <div class="status" data-state=${name}>
      <span class="unseen" role="status">${t(name)}</span>
      <span aria-hidden="true">${seconds ?? t(name)}</span>
      ${state === 'stopped' && html`<button type="button" onClick=${onRestart}>${t('useHere')}</button>`}
    </div>
  `;
}
