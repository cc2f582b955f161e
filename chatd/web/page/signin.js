// Sign in, create an account (an invite comes in the address's fragment, and does not stay there), or choose one that
// is signed in already.

import { login, register } from '../sdk/chatd.js';
import { html } from './html.js';
import { SERVER, accounts, keep, use } from './kept.js';
import { t } from './strings.js';
import { useState } from './vendor/hooks.js';

const USER = '[a-z0-9][a-z0-9._\\-]{0,63}';
const joining = /\/join$/.test(location.pathname);
export const INVITE = joining ? location.hash.slice(1) : '';
if (joining) history.replaceState(null, '', new URL('.', location.href).pathname);

function deviceName() {
  const agent = navigator.userAgent;
  const browser = ['Edg', 'OPR', 'Firefox', 'Chrome', 'Safari'].find((one) => agent.includes(one)) ?? 'Browser';
  const system = ['Android', 'iPhone', 'iPad', 'Windows', 'Mac', 'Linux'].find((one) => agent.includes(one));
  const name = { Edg: 'Edge', OPR: 'Opera' }[browser] ?? browser;
  return system ? `${name}, ${system}` : name;
}

/** @param {{ code?: string, message?: string }} error @param {boolean} registering */
function why(error, registering) {
  if (error.code === 'unauthenticated') return t('wrongLogin');
  if (error.code === 'rate_limited' || error.code === 'overloaded') return t('tooFast');
  if (error.code && error.code !== 'unavailable') return error.message ?? (registering ? t('forbidden') : t('wrongLogin'));
  return t('noAnswer');
}

export function SignIn({ told, onSignedIn }) {
  const [registering, setRegistering] = useState(INVITE !== '');
  const [problem, setProblem] = useState('');
  const [busy, setBusy] = useState(false);
  const known = Object.keys(accounts());

  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const [user, password, invite] = ['user', 'password', 'invite'].map((name) => String(form.get(name) ?? '').trim());
    setBusy(true);
    setProblem('');
    try {
      const secret = String(form.get('password') ?? password);
      if (registering) await register(SERVER, { user, password: secret, ...(invite && { invite }) });
      keep(await login(SERVER, { user, password: secret, deviceName: deviceName() }));
      onSignedIn();
    } catch (error) {
      setProblem(why(error, registering));
    } finally {
      setBusy(false);
    }
  };

  return html`
    <main class="signin">
      <h1>chatd</h1>
      <p>${t('about')}</p>
      <p role="alert" class="problem">${problem || told}</p>
      ${known.map((user) => html`<p key=${user}><button type="button" class="wide" onClick=${() => { use(user); onSignedIn(); }}>
          ${t('continueAs', { user })}</button></p>`)}
      <form onSubmit=${submit}>
        <h2>${registering ? t('register') : t('signIn')}</h2>
        <label>${t('user')}
          <input name="user" required maxlength="64" pattern=${USER} title=${t('userHint')} autocomplete="username"
            autocapitalize="none" spellcheck=${false} dir="ltr" /></label>
        <label>${t('password')}
          <input name="password" type="password" required dir="ltr"
            autocomplete=${registering ? 'new-password' : 'current-password'} /></label>
        ${registering && html`<label>${t('invite')} <small>${t('inviteHint')}</small>
          <input name="invite" autocomplete="off" defaultValue=${INVITE} dir="ltr" /></label>`}
        <button class="primary wide" disabled=${busy}>${registering ? t('register') : t('signIn')}</button>
      </form>
      <p><button type="button" class="link" onClick=${() => { setProblem(''); setRegistering(!registering); }}>
        ${registering ? t('haveAccount') : t('needAccount')}</button></p>
    </main>
  `;
}
