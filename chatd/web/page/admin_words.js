// The texts of the administration, which only administrators load.

import { say } from './strings.js';

const en = {
  ready: 'Ready', notReady: 'Not ready: {why}', draining: 'Ending', up: 'version {version}, up {time}, {store}, a commit survives: {durability}',
  processes: { one: '{n} process on {host}', other: '{n} processes on {host}' },
  elsewhere: { one: '{n} further process of the cluster is neither shown nor counted here.', other: '{n} further processes of the cluster are neither shown nor counted here.' }, pause: 'Pause', figures: 'Figures', summary: '{title}: now {now}, at most {most} in this chart',
  noFigures: 'The first figures come in a moment.', messages: 'Messages a second', delivered: 'Delivered a second', connections: 'Connections', ofUsers: '{n} · {users} users',
  sent: 'From send to sent', arrived: 'From sent to delivered', commit: 'Commit', loop: 'Event loop late', queue: 'Waiting for a commit', memory: 'Memory',
  ninetyNine: '99 of 100 within {time}', half: 'half within {time}', hot: 'Hot conversations', hotHint: 'Messages of the last minute.', conversation: 'Conversation', count: 'Messages',
  slow: 'Slow devices', slowHint: 'Who owes acknowledgements, or does not take what is sent.', device: 'Device', unacked: 'Unacknowledged', owed: 'Not taken', full: 'Full for',
  nothing: 'None.', process: 'Process', state: 'State', users: 'Users', user: 'User', there: 'Connected', made: 'Made', administrator: 'administrator', locked: 'locked out', noPassword: 'no password',
  lock: 'Lock out', lockName: 'Lock out {user}', unlock: 'Let in', unlockName: 'Let in {user}', devices: 'Devices', devicesOf: 'Devices of {user}', noDevices: 'No devices.', actions: 'Actions',
  end: 'Sign out', endName: 'Sign out {name} of {user}', invite: 'Invite', inviteHint: 'One person may register with it, within three days.', makeInvite: 'Make an invite', inviteLink: 'The invite, shown this once', perSecond: '{n}/s',
};

/** @type {typeof en} */
const de = {
  ready: 'Bereit', notReady: 'Nicht bereit: {why}', draining: 'Endet gerade', up: 'Version {version}, läuft seit {time}, {store}, eine Speicherung übersteht: {durability}',
  processes: { one: '{n} Prozess auf {host}', other: '{n} Prozesse auf {host}' },
  elsewhere: { one: '{n} weiterer Prozess des Verbunds ist hier weder gezeigt noch mitgezählt.', other: '{n} weitere Prozesse des Verbunds sind hier weder gezeigt noch mitgezählt.' }, pause: 'Anhalten', figures: 'Zahlen', summary: '{title}: jetzt {now}, höchstens {most} in diesem Bild',
  noFigures: 'Die ersten Zahlen kommen gleich.', messages: 'Nachrichten je Sekunde', delivered: 'Zugestellt je Sekunde', connections: 'Verbindungen', ofUsers: '{n} · {users} Benutzer',
  sent: 'Vom Absenden bis gesendet', arrived: 'Von gesendet bis zugestellt', commit: 'Speichern', loop: 'Verspätung der Schleife', queue: 'Warten auf das Speichern', memory: 'Speicher',
  ninetyNine: '99 von 100 binnen {time}', half: 'die Hälfte binnen {time}', hot: 'Lebhafte Unterhaltungen', hotHint: 'Nachrichten der letzten Minute.', conversation: 'Unterhaltung', count: 'Nachrichten',
  slow: 'Langsame Geräte', slowHint: 'Was Bestätigungen schuldet oder nicht annimmt, was gesendet wird.', device: 'Gerät', unacked: 'Unbestätigt', owed: 'Nicht angenommen', full: 'Voll seit',
  nothing: 'Keine.', process: 'Prozess', state: 'Zustand', users: 'Benutzer', user: 'Benutzer', there: 'Verbunden', made: 'Angelegt', administrator: 'verwaltet', locked: 'gesperrt', noPassword: 'ohne Passwort',
  lock: 'Sperren', lockName: '{user} sperren', unlock: 'Freigeben', unlockName: '{user} freigeben', devices: 'Geräte', devicesOf: 'Geräte von {user}', noDevices: 'Keine Geräte.', actions: 'Aktionen',
  end: 'Abmelden', endName: '{name} von {user} abmelden', invite: 'Einladung', inviteHint: 'Damit kann sich eine Person anmelden, binnen drei Tagen.', makeInvite: 'Einladung anlegen', inviteLink: 'Die Einladung, nur dieses eine Mal gezeigt', perSecond: '{n}/s',
};

const TABLE = { en, de };

/** @param {keyof typeof en} name @param {Record<string, unknown>} [values] */
export const w = (name, values) => say(TABLE, name, values);
