// One conversation: who it is with, its log, and below it what the caller puts there to write with.

import { html } from './html.js';
import { useTyping } from './list.js';
import { Log } from './log.js';
import { Avatar, presenceText } from './person.js';
import { t } from './strings.js';
import { useEffect, useRef } from './vendor/hooks.js';
import { useEvents } from './watching.js';

export function Conversation({ chat, me, peer, blocked, onBlock, children }) {
  useEvents(chat, ['presence'], ({ user } = {}) => user === undefined || user === peer);
  const typing = useTyping(chat).has(peer) && peer !== me;
  const asking = useRef(null);
  const conv = chat.conversations().find((row) => row.peer === peer)?.conv ?? chat.convWith(peer);
  useEffect(() => {
    if (peer !== me) chat.watch([peer]);
  }, [chat, peer]);
  const presence = chat.presence(peer);
  const decide = (event) => {
    event.preventDefault();
    asking.current.close();
    onBlock(peer, true);
  };
  return html`
    <section class="conversation" aria-label=${t('messagesWith', { user: peer })}>
      <header>
        <a class="button back" href="#/" aria-label=${t('back')}><span aria-hidden="true">‹</span></a>
        <${Avatar} user=${peer} presence=${presence} />
        <div class="who">
          <h1 dir="auto">${peer === me ? t('notes') : peer}</h1>
          <p class="there">${typing ? html`<em>${t('typing')}</em>` : presenceText(presence)}</p>
        </div>
        ${peer !== me && html`<button type="button" id="block" onClick=${() => (blocked ? onBlock(peer, false) : asking.current.showModal())}>
          ${blocked ? t('unblock') : t('block')}</button>`}
      </header>
      <${Log} key=${conv} chat=${chat} me=${me} peer=${peer} conv=${conv} />
      ${blocked ? html`<p class="blocked">${t('blockedHere', { user: peer })}</p>` : children}
      <dialog ref=${asking} aria-labelledby="block-ask">
        <form onSubmit=${decide}>
          <p id="block-ask">${t('blockAsk', { user: peer })}</p>
          <button type="button" onClick=${() => asking.current.close()}>${t('cancel')}</button>
          <button class="primary">${t('block')}</button>
        </form>
      </dialog>
    </section>
  `;
}
