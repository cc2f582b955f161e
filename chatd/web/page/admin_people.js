// The administration's users: who there is, who is connected, to lock out, to sign out, to invite.

import { w } from './admin_words.js';
import { date } from './format.js';
import { html } from './html.js';
import { SERVER } from './kept.js';
import { reason } from './settings.js';
import { t } from './strings.js';
import { useEffect, useState } from './vendor/hooks.js';

const PAGE_USERS = 50;
const SHOWN_USERS_MAX = 1_000;
const at = (user) => `/v1/admin/users/${encodeURIComponent(user)}`;

export function People({ chat, me }) {
  const [users, setUsers] = useState([]);
  const [more, setMore] = useState(false);
  const [problem, setProblem] = useState('');
  const [open, setOpen] = useState('');
  const attempt = async (work) => {
    setProblem('');
    try {
      await work();
    } catch (error) {
      setProblem(reason(error));
    }
  };
  const load = (known) => attempt(async () => {
    const after = known.length ? known.at(-1).user : '';
    const page = (await chat.http.call('GET', `/v1/admin/users?limit=${PAGE_USERS}&after=${encodeURIComponent(after)}`)).users;
    const all = [...known, ...page].slice(-SHOWN_USERS_MAX);
    setUsers(all);
    setMore(page.length === PAGE_USERS);
  });
  useEffect(() => {
    load([]);
  }, [chat]);
  const lock = (row, disabled) => attempt(async () => {
    await chat.http.call('PUT', at(row.user), { disabled });
    setUsers((old) => old.map((one) => (one.user === row.user ? { ...one, disabled, connected: disabled ? 0 : one.connected } : one)));
  });
  return html`
    <h2>${w('users')}</h2>
    <p role="alert" class="problem">${problem}</p>
    <ul class="plain-list" id="users">
      ${users.map((row) => html`<li key=${row.user} data-user=${row.user}>
        <span><bdi>${row.user}</bdi> <small>${described(row)}</small></span>
        <span class="buttons">
          <button type="button" aria-expanded=${open === row.user} aria-label=${w('devicesOf', { user: row.user })} onClick=${() => setOpen(open === row.user ? '' : row.user)}>${w('devices')}</button>
          ${row.user !== me && html`<button type="button" class="lock" aria-label=${w(row.disabled ? 'unlockName' : 'lockName', { user: row.user })} onClick=${() => lock(row, !row.disabled)}>${w(row.disabled ? 'unlock' : 'lock')}</button>`}
        </span>
        ${open === row.user && html`<${Devices} chat=${chat} user=${row.user} attempt=${attempt} />`}
      </li>`)}
    </ul>
    ${more && html`<p><button type="button" class="wide" onClick=${() => load(users)}>${t('more')}</button></p>`}
    <${Invite} chat=${chat} attempt=${attempt} />
  `;
}

function described({ connected, admin, disabled, has_password, created }) {
  const parts = [`${w('there')}: ${connected}`, admin && w('administrator'), disabled && w('locked'), !has_password && w('noPassword'), `${w('made')}: ${date(created)}`];
  return parts.filter(Boolean).join(' · ');
}

function Devices({ chat, user, attempt }) {
  const [devices, setDevices] = useState(null);
  const load = () => attempt(async () => setDevices((await chat.http.call('GET', `${at(user)}/devices`)).devices));
  useEffect(() => {
    load();
  }, [user]);
  const end = (device) => attempt(async () => {
    await chat.http.call('DELETE', `${at(user)}/devices/${encodeURIComponent(device)}`);
    await load();
  });
  if (devices === null) return html`<p>${t('loading')}</p>`;
  if (!devices.length) return html`<p>${w('noDevices')}</p>`;
  return html`<ul class="plain-list inner" aria-label=${w('devicesOf', { user })}>
    ${devices.map(({ device, name, created, current }) => html`<li key=${device}><span><bdi>${name || device}</bdi> <small>${current ? t('thisDevice') : t('since', { when: date(created) })}</small></span>
      ${!current && html`<button type="button" aria-label=${w('endName', { name: name || device, user })} onClick=${() => end(device)}>${w('end')}</button>`}</li>`)}
  </ul>`;
}

function Invite({ chat, attempt }) {
  const [link, setLink] = useState('');
  const make = () => attempt(async () => {
    const { invite } = await chat.http.call('POST', '/v1/admin/invites', { hours: 72 });
    setLink(new URL(`join#${invite}`, SERVER).href);
  });
  return html`
    <h2>${w('invite')}</h2>
    <p>${w('inviteHint')}</p>
    <p><button type="button" id="invite" onClick=${make}>${w('makeInvite')}</button></p>
    ${link && html`<p><label>${w('inviteLink')} <input id="invite-link" readonly value=${link} dir="ltr" onFocus=${(event) => event.currentTarget.select()} /></label></p>`}
  `;
}
