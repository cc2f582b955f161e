// How a user looks in every view: a letter on a colour, and whether somebody is there.

import { when } from './format.js';
import { html } from './html.js';
import { t } from './strings.js';

const COLOURS = 8;

/** @param {string} user */
function colourOf(user) {
  let sum = 0;
  for (let i = 0; i < user.length; i++) sum = (sum * 31 + user.charCodeAt(i)) % 9973;
  return sum % COLOURS;
}

/** @param {{ user: string, presence?: { state: string } | null }} props */
export function Avatar({ user, presence }) {
  const state = presence?.state;
  return html`<span class=${`avatar colour-${colourOf(user)}`} data-presence=${state ?? ''} aria-hidden="true">${user.slice(0, 1)}</span>`;
}

/** @param {{ state: string, lastSeen?: number } | null | undefined} presence */
export function presenceText(presence) {
  if (!presence) return '';
  if (presence.state !== 'offline') return t(presence.state === 'online' ? 'online' : 'away');
  const seen = presence.lastSeen;
  return seen ? t('lastSeen', { when: when(seen) }) : t('offlineUser');
}
