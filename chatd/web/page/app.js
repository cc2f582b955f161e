// The page: which account, which view. One Chatd for as long as an account is in use in this tab.

import { Chatd } from '../sdk/chatd.js';
import { Announcer, announce } from './announcer.js';
import { Composer } from './composer.js';
import { Conversation } from './conversation.js';
import { html } from './html.js';
import { SERVER, accounts, current, forget, use } from './kept.js';
import { Admin } from './lazy.js';
import { List, neighbour } from './list.js';
import { clearNotifications, listenToWorker, startWorker } from './notify.js';
import { Settings } from './settings.js';
import { INVITE, SignIn } from './signin.js';
import { Status } from './status.js';
import { chooseLanguage, t } from './strings.js';
import { useEffect, useRef, useState } from './vendor/hooks.js';
import { render } from './vendor/preact.js';

/** What the address says: `#/with/bob`, `#/settings`, and from a notification `#/as/alice/with/bob`. */
function route() {
  const parts = location.hash.slice(1).split('/').filter(Boolean).map(decodeURIComponent);
  const as = parts[0] === 'as' ? parts.splice(0, 2)[1] : null;
  return { as, view: parts[0] ?? '', peer: parts[0] === 'with' ? parts[1] ?? null : null };
}

function useRoute() {
  const [at, setAt] = useState(route);
  useEffect(() => {
    const moved = () => setAt(route());
    addEventListener('hashchange', moved);
    moved(); // it may have changed since this was drawn
    return () => removeEventListener('hashchange', moved);
  }, []);
  return at;
}

/** @param {{ account: import('./kept.js').Account, onEnded: (why: string) => void, onLanguage: () => void }} props */
function Main({ account, onEnded, onLanguage }) {
  const me = account.user;
  const { view, peer } = useRoute();
  const [chat, setChat] = useState(null);
  const [blocks, setBlocks] = useState([]);
  const [generation, setGeneration] = useState(0);
  const open = useRef(peer);
  open.current = peer;

  useEffect(() => {
    const made = new Chatd({ url: SERVER, token: account.token, user: me });
    const offs = [
      made.on('signed_out', () => {
        forget(me);
        onEnded(t('signedOut'));
      }),
      made.on('badge', (unread) => showBadge(unread)),
      made.on('receipt', ({ conv, user, read }) => user === me && clearNotifications(me, conv, read)),
      made.on('message', ({ message, mine }) => made.state === 'live' && !mine && tell(message, open.current)),
    ];
    const seen = () => {
      const away = document.visibilityState !== 'visible';
      made.status(away ? 'away' : 'online', away);
    };
    document.addEventListener('visibilitychange', seen);
    made.start().catch((error) => console.error(error)); // told by the state, too
    seen();
    setChat(made);
    window.chatd = made; // for whoever looks from the console, and the tests
    let gone = false;
    const load = async () => {
      const answer = await made.http.blocks().catch(() => null); // asked again with the next connection
      if (answer && !gone) setBlocks(answer);
    };
    offs.push(made.on('state', (state) => state === 'live' && load()));
    return () => {
      gone = true;
      offs.forEach((off) => off());
      document.removeEventListener('visibilitychange', seen);
      showBadge(0);
      made.stop();
    };
  }, [me, account.token, generation]);

  useKeys(chat, peer);
  if (!chat) return null;
  const onBlock = async (user, on) => {
    await chat.http.block(user, on);
    setBlocks(on ? [...blocks, user] : blocks.filter((one) => one !== user));
  };
  const blocked = peer !== null && blocks.includes(peer);
  return html`
    <div class="app" data-view=${view || 'list'}>
      <${Status} chat=${chat} onRestart=${() => setGeneration(generation + 1)} />
      <${List} chat=${chat} me=${me} peer=${peer} />
      <main>
        ${view === 'settings'
          ? html`<${Settings} chat=${chat} account=${account} blocks=${blocks} onBlock=${onBlock} onEnded=${onEnded} onLanguage=${onLanguage} />`
          : view === 'admin'
            ? html`<${Admin} chat=${chat} me=${me} />`
          : peer === null
            ? html`<p class="empty">${t('pick')}<br /><small>${t('menu')}</small></p>`
            : html`<${Conversation} key=${peer} chat=${chat} me=${me} peer=${peer} blocked=${blocked} onBlock=${onBlock}>
                <${Composer} chat=${chat} me=${me} peer=${peer} />
              <//>`}
      </main>
      <${Announcer} />
    </div>
  `;
}

function tell(message, openPeer) {
  if (message.body === undefined) return;
  if (message.from === openPeer) announce(t('saidBy', { user: message.from, body: message.body.slice(0, 200) }));
  else announce(t('newFrom', { user: message.from }));
}

function showBadge(unread) {
  document.title = unread ? `(${unread}) chatd` : 'chatd';
  // Only installed pages have a badge, and only some browsers; nobody waits for it.
  if (navigator.setAppBadge) navigator.setAppBadge(unread).catch(() => {});
}

function useKeys(chat, peer) {
  useEffect(() => {
    const pressed = (event) => {
      const writing = event.target instanceof HTMLElement && event.target.matches('input, textarea, select');
      if (event.key === 'Escape' && location.hash.length > 2 && !document.querySelector('dialog[open]')) {
        location.hash = '#/';
      } else if (event.altKey && (event.key === 'ArrowDown' || event.key === 'ArrowUp') && chat) {
        const next = neighbour(chat, peer, event.key === 'ArrowDown' ? 1 : -1);
        if (next) location.hash = `#/with/${encodeURIComponent(next)}`;
      } else if (event.key === '/' && !writing && !event.ctrlKey && !event.metaKey) {
        document.getElementById('search')?.focus();
      } else {
        return;
      }
      event.preventDefault();
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, [chat, peer]);
}

function Page() {
  const at = useRoute();
  const [, again] = useState(0);
  const [account, setAccount] = useState(() => (INVITE ? null : current())); // an invite is for somebody new
  const [told, setTold] = useState('');
  useEffect(() => {
    if (!at.as) return;
    if (Object.hasOwn(accounts(), at.as)) use(at.as);
    history.replaceState(null, '', at.peer ? `#/with/${encodeURIComponent(at.peer)}` : '#/');
    setAccount(current());
    dispatchEvent(new HashChangeEvent('hashchange'));
  }, [at.as]);
  const onEnded = (why = '') => {
    setTold(why);
    setAccount(null);
    history.replaceState(null, '', '#/');
  };
  if (!account) return html`<${SignIn} told=${told} onSignedIn=${() => setAccount(current())} />`;
  return html`<${Main} key=${account.user} account=${account} onEnded=${onEnded} onLanguage=${() => again((n) => n + 1)} />`;
}

chooseLanguage();
render(html`<${Page} />`, document.getElementById('app'));
startWorker();
listenToWorker();
