// Devices, notifications, privacy, language, and the way out.

import { date } from './format.js';
import { html } from './html.js';
import { forget, use } from './kept.js';
import { notificationState, switchNotifications } from './notify.js';
import { LANGUAGES, keepLanguage, language, t } from './strings.js';
import { useEffect, useState } from './vendor/hooks.js';

/** @param {{ code?: string, message?: string }} error */
export const reason = (error) => (error.code === 'unavailable' ? t('noAnswer') : error.message ?? String(error));

export function Settings({ chat, account, blocks, onBlock, onEnded, onLanguage }) {
  const [devices, setDevices] = useState([]);
  const [lastSeen, setLastSeen] = useState(null);
  const [notify, setNotify] = useState('unknown');
  const [admin, setAdmin] = useState(false);
  const [problem, setProblem] = useState('');
  const attempt = async (work) => {
    setProblem('');
    try {
      return await work();
    } catch (error) {
      setProblem(reason(error));
      return undefined;
    }
  };
  const load = () => attempt(async () => {
    setDevices(await chat.http.devices());
    setLastSeen((await chat.http.privacy()).lastSeen);
    setNotify(await notificationState(chat));
    setAdmin((await chat.http.account()).admin);
  });
  useEffect(() => {
    load();
  }, [chat]);

  const revoke = (device) => attempt(async () => {
    await chat.http.revoke(device);
    setDevices(await chat.http.devices());
  });
  const leave = () => attempt(async () => {
    await switchNotifications(chat, false).catch(() => {}); // the server forgets the subscription with the device
    await chat.signOut();
    forget(account.user);
    onEnded();
  });
  const other = () => {
    use(null);
    onEnded();
  };
  const flip = async (on) => {
    setNotify(on ? 'switching on' : 'switching off');
    setNotify((await attempt(() => switchNotifications(chat, on))) ?? (on ? 'off' : 'on'));
  };
  const show = (on) => attempt(async () => {
    await chat.http.setPrivacy({ lastSeen: on });
    setLastSeen(on);
  });
  return html`
    <section class="settings" aria-labelledby="settings-title">
      <header><a class="button back" href="#/" aria-label=${t('back')}><span aria-hidden="true">‹</span></a><h1 id="settings-title">${t('settings')}</h1></header>
      <div class="pages">
        <p role="alert" class="problem">${problem}</p>
        <h2>${t('devices')}</h2>
        <ul class="plain-list" id="devices">
          ${devices.map(({ device, name, created, current }) => html`<li key=${device}>
            <span><bdi>${name || device}</bdi> <small>${current ? t('thisDevice') : t('since', { when: date(created) })}</small></span>
            ${!current && html`<button type="button" aria-label=${t('revokeName', { name: name || device })} onClick=${() => revoke(device)}>${t('revoke')}</button>`}
          </li>`)}
        </ul>
        <h2>${t('notifications')}</h2>
        ${notify === 'none' || notify === 'denied'
          ? html`<p>${t(notify === 'none' ? 'notifyNone' : 'notifyDenied')}</p>`
          : html`<${Switch} id="notify" label=${t('notify')} on=${notify === 'on' || notify === 'switching on'} disabled=${notify !== 'on' && notify !== 'off'} onFlip=${flip} />`}
        <h2>${t('privacy')}</h2>
        <${Switch} id="last-seen" label=${t('lastSeenSwitch')} on=${lastSeen === true} disabled=${lastSeen === null} onFlip=${show} />
        <h2>${t('blocked')}</h2>
        ${blocks.length
          ? html`<ul class="plain-list">${blocks.map((user) => html`<li key=${user}><bdi>${user}</bdi>
              <button type="button" onClick=${() => attempt(() => onBlock(user, false))}>${t('unblock')}</button></li>`)}</ul>`
          : html`<p>${t('blockedNone')}</p>`}
        <h2><label for="language">${t('language')}</label></h2>
        <select id="language" value=${language()} onChange=${(event) => { keepLanguage(event.currentTarget.value); onLanguage(); }}>
          ${Object.entries(LANGUAGES).map(([tag, name]) => html`<option key=${tag} value=${tag} lang=${tag}>${name}</option>`)}
        </select>
        <h2>${t('account')}</h2>
        <p>${t('signedInAs', { user: account.user })}</p>
        ${admin && html`<p><a class="button" href="#/admin">${t('admin')}</a></p>`}
        <p><button type="button" id="other" onClick=${other}>${t('otherAccount')}</button> <button type="button" id="leave" onClick=${leave}>${t('signOut')}</button></p>
      </div>
    </section>
  `;
}

function Switch({ id, label, on, disabled, onFlip }) {
  return html`<p><label class="switch"><input id=${id} type="checkbox" role="switch" checked=${on} disabled=${disabled}
    onChange=${(event) => onFlip(event.currentTarget.checked)} /> ${label}</label></p>`;
}
