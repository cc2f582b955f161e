// What the page keeps in the browser beside the SDK's database: the accounts of this browser, and drafts.

/** Where the server is: beside this page, also below a host application's path. */
export const SERVER = new URL('.', document.baseURI).href;

const ACCOUNTS = 'chatd.accounts';
const LAST = 'chatd.last';
const HERE = 'chatd.here';

/** @typedef {{ user: string, device: string, token: string }} Account */

/** The accounts that are signed in in this browser, by user. @returns {Record<string, Account>} */
export function accounts() {
  try {
    return JSON.parse(localStorage.getItem(ACCOUNTS) ?? '{}');
  } catch {
    return {}; // somebody wrote something else there: signed out is the safe reading
  }
}

/** The account of this tab: the one it chose, or the one that was used last. @returns {Account | null} */
export function current() {
  const user = sessionStorage.getItem(HERE) ?? localStorage.getItem(LAST) ?? '';
  const all = accounts();
  return Object.hasOwn(all, user) ? all[user] : null;
}

/** This tab uses this account from now on; null: it asks. @param {string | null} user */
export function use(user) {
  sessionStorage.setItem(HERE, user ?? '');
  if (user) localStorage.setItem(LAST, user);
}

/** @param {Account} account */
export function keep({ user, device, token }) {
  localStorage.setItem(ACCOUNTS, JSON.stringify({ ...accounts(), [user]: { user, device, token } }));
  use(user);
}

/** @param {string} user */
export function forget(user) {
  const { [user]: _, ...others } = accounts();
  localStorage.setItem(ACCOUNTS, JSON.stringify(others));
  for (const key of Object.keys(localStorage)) if (key.startsWith(`chatd.draft/${user}/`)) localStorage.removeItem(key);
  use(null);
}

/** @param {string} me @param {string} peer */
const place = (me, peer) => `chatd.draft/${me}/${peer}`;

export const draft = (me, peer) => localStorage.getItem(place(me, peer)) ?? '';

export function keepDraft(me, peer, text) {
  if (text) localStorage.setItem(place(me, peer), text);
  else localStorage.removeItem(place(me, peer));
}
