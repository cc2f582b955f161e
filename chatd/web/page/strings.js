// Every text that a person reads, in each language, under one name. A value with {one, other} is chosen by `n`.

const en = {
  signIn: 'Sign in', register: 'Create account', user: 'User name', password: 'Password', invite: 'Invite',
  inviteHint: 'Needed unless registration is open', haveAccount: 'I have an account', needAccount: 'I need an account',
  continueAs: 'Continue as {user}', userHint: 'a to z, 0 to 9, dot, hyphen, underscore', about: 'Messages between two people, on a server of your own.',
  search: 'Search, or a name to write to', conversations: 'Conversations', settings: 'Settings', back: 'Back', noneYet: 'No conversations yet. Enter a name above to begin one.',
  noneFound: 'Nothing found.', writeTo: 'Write to {user}', more: 'Show more', draft: 'Draft', you: 'You', hidden: 'Message hidden', expired: 'Older messages were deleted',
  deleted: 'Message deleted', unread: { one: '{n} unread message', other: '{n} unread messages' }, newHere: 'New messages', toUnread: 'Jump to first unread',
  toEnd: 'Jump to newest', messagesWith: 'Messages with {user}', message: 'Message', send: 'Send', sending: 'Waiting to be sent', sent: 'Sent',
  delivered: 'Delivered', read: 'Read', failed: 'Not sent: {why}', retry: 'Send again', discard: 'Discard', copy: 'Copy', copied: 'Copied', typing: 'is typing…',
  online: 'online', away: 'away', offlineUser: 'offline', lastSeen: 'last seen {when}', today: 'Today', yesterday: 'Yesterday', loading: 'Loading…', olderLater: 'Older messages come when the server answers again.',
  beginning: 'This is the beginning.', pick: 'Choose a conversation, or enter a name to begin one.', notes: 'Notes to self', admin: 'Administration', saidBy: '{user}: {body}', newFrom: 'New message from {user}',
  live: 'Connected', connecting: 'Connecting…', catching_up: 'Catching up…', offline: 'Offline. What you write is kept, and sent when you are back.',
  retryIn: 'No connection. Trying again in {n} s.', stopped: 'This device is connected elsewhere.', useHere: 'Use here', signedOut: 'This device was signed out.',
  block: 'Block', unblock: 'Unblock', blockAsk: 'Block {user}? Nothing of theirs reaches you any more, and they do not learn of it.', blockedHere: 'You blocked {user}.',
  blocked: 'Blocked', blockedNone: 'Nobody is blocked.', cancel: 'Cancel', devices: 'Devices', thisDevice: 'this device', since: 'since {when}', revoke: 'Sign out', revokeName: 'Sign out {name}',
  notifications: 'Notifications', notify: 'Notify this device of new messages', notifyDenied: 'The browser does not allow notifications from this page.',
  notifyNone: 'This browser, or this server, has no notifications.', notifyFailed: 'That did not work: {why}', privacy: 'Privacy', lastSeenSwitch: 'Show when I was last here, and see it of others',
  language: 'Language', account: 'Account', signOut: 'Sign out here', otherAccount: 'Use another account', signedInAs: 'Signed in as {user}',
  newMessages: { one: '{n} new message', other: '{n} new messages' }, noAnswer: 'The server did not answer.', unknownUser: 'there is no such user',
  tooLarge: 'the message is too long', forbidden: 'that is not allowed', wrongLogin: 'Wrong user name or password.', tooFast: 'Too many attempts. Try again later.', menu: 'Keys: / search, Alt+↑ ↓ next conversation, Esc back.',
};

/** @type {typeof en} */
const de = {
  signIn: 'Anmelden', register: 'Konto anlegen', user: 'Benutzername', password: 'Passwort', invite: 'Einladung',
  inviteHint: 'Nötig, wenn die Anmeldung nicht offen ist', haveAccount: 'Ich habe ein Konto', needAccount: 'Ich brauche ein Konto',
  continueAs: 'Weiter als {user}', userHint: 'a bis z, 0 bis 9, Punkt, Bindestrich, Unterstrich', about: 'Nachrichten zwischen zwei Menschen, auf einem eigenen Server.',
  search: 'Suchen, oder an wen schreiben?', conversations: 'Unterhaltungen', settings: 'Einstellungen', back: 'Zurück', noneYet: 'Noch keine Unterhaltungen. Oben einen Namen eingeben, um eine zu beginnen.',
  noneFound: 'Nichts gefunden.', writeTo: 'An {user} schreiben', more: 'Mehr anzeigen', draft: 'Entwurf', you: 'Du', hidden: 'Nachricht verborgen', expired: 'Ältere Nachrichten wurden gelöscht',
  deleted: 'Nachricht gelöscht', unread: { one: '{n} ungelesene Nachricht', other: '{n} ungelesene Nachrichten' }, newHere: 'Neue Nachrichten', toUnread: 'Zur ersten ungelesenen',
  toEnd: 'Zur neuesten', messagesWith: 'Nachrichten mit {user}', message: 'Nachricht', send: 'Senden', sending: 'Wartet auf das Senden', sent: 'Gesendet',
  delivered: 'Zugestellt', read: 'Gelesen', failed: 'Nicht gesendet: {why}', retry: 'Noch einmal senden', discard: 'Verwerfen', copy: 'Kopieren', copied: 'Kopiert', typing: 'schreibt …',
  online: 'da', away: 'abwesend', offlineUser: 'nicht da', lastSeen: 'zuletzt da {when}', today: 'Heute', yesterday: 'Gestern', loading: 'Lädt …', olderLater: 'Ältere Nachrichten kommen, sobald der Server wieder antwortet.',
  beginning: 'Hier beginnt die Unterhaltung.', pick: 'Eine Unterhaltung wählen, oder einen Namen eingeben, um eine zu beginnen.', notes: 'Notizen an mich', admin: 'Verwaltung', saidBy: '{user}: {body}', newFrom: 'Neue Nachricht von {user}',
  live: 'Verbunden', connecting: 'Verbindet …', catching_up: 'Holt nach …', offline: 'Keine Verbindung. Was du schreibst, bleibt und wird später gesendet.',
  retryIn: 'Keine Verbindung. Neuer Versuch in {n} s.', stopped: 'Dieses Gerät ist anderswo verbunden.', useHere: 'Hier benutzen', signedOut: 'Dieses Gerät wurde abgemeldet.',
  block: 'Blockieren', unblock: 'Freigeben', blockAsk: '{user} blockieren? Nichts von dort erreicht dich mehr, und es bleibt unbemerkt.', blockedHere: 'Du hast {user} blockiert.',
  blocked: 'Blockiert', blockedNone: 'Niemand ist blockiert.', cancel: 'Abbrechen', devices: 'Geräte', thisDevice: 'dieses Gerät', since: 'seit {when}', revoke: 'Abmelden', revokeName: '{name} abmelden',
  notifications: 'Benachrichtigungen', notify: 'Auf diesem Gerät über neue Nachrichten benachrichtigen', notifyDenied: 'Der Browser erlaubt dieser Seite keine Benachrichtigungen.',
  notifyNone: 'Dieser Browser oder dieser Server kennt keine Benachrichtigungen.', notifyFailed: 'Das ging nicht: {why}', privacy: 'Privatsphäre', lastSeenSwitch: 'Zeigen, wann ich zuletzt da war, und es bei anderen sehen',
  language: 'Sprache', account: 'Konto', signOut: 'Hier abmelden', otherAccount: 'Anderes Konto benutzen', signedInAs: 'Angemeldet als {user}',
  newMessages: { one: '{n} neue Nachricht', other: '{n} neue Nachrichten' }, noAnswer: 'Der Server hat nicht geantwortet.', unknownUser: 'diesen Benutzer gibt es nicht',
  tooLarge: 'die Nachricht ist zu lang', forbidden: 'das ist nicht erlaubt', wrongLogin: 'Falscher Benutzername oder falsches Passwort.', tooFast: 'Zu viele Versuche. Später noch einmal.', menu: 'Tasten: / Suche, Alt+↑ ↓ nächste Unterhaltung, Esc zurück.',
};

const TABLE = { en, de };
export const LANGUAGES = { en: 'English', de: 'Deutsch' };
const KEPT = 'chatd.language';

/** @type {keyof typeof TABLE} */
let chosen = 'en';
/** The same with its region, which decides how a date is written. */
let region = 'en';
/** @type {Intl.PluralRules} */
let plural;

/** The language in use, as a BCP 47 tag. */
export const language = () => chosen;
export const regional = () => region;

/** Take the language that was chosen before, or the first of the browser's that there is. */
export function chooseLanguage(name = localStorage.getItem(KEPT)) {
  const wanted = [name, ...navigator.languages].map((one) => (one ?? '').split('-')[0]);
  chosen = wanted.find((one) => Object.hasOwn(TABLE, one)) ?? 'en';
  region = navigator.languages.find((one) => one.split('-')[0] === chosen) ?? chosen;
  plural = new Intl.PluralRules(chosen);
  document.documentElement.lang = chosen;
}

/** Keep a choice. @param {keyof typeof TABLE} name */
export function keepLanguage(name) {
  localStorage.setItem(KEPT, name);
  chooseLanguage(name);
}

/** The text of this name, with `{x}` filled in. @param {keyof typeof en} name @param {Record<string, unknown>} [values] */
export const t = (name, values) => say(TABLE, name, values);

/** The same from a table of a module that few load. @param {Record<string, any>} table @param {string} name @param {Record<string, any>} [values] */
export function say(table, name, values = {}) {
  const entry = table[chosen][name];
  const text = typeof entry === 'string' ? entry : entry[plural.select(values.n)] ?? entry.other;
  return text.replace(/\{(\w+)\}/g, (_, key) => String(values[key]));
}

/** What a service worker must be able to say without this table. */
export const workerWords = () => ({ newMessages: TABLE[chosen].newMessages, language: chosen });
