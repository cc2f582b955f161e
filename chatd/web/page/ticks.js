// Sent, delivered, read: as ticks for the eye and as a word for a screen reader.

import { html } from './html.js';
import { t } from './strings.js';

/** @param {number} seq @param {{ peerDelivered: number, peerRead: number } | undefined} row */
export function tickOf(seq, row) {
  if (!row || seq > Math.max(row.peerDelivered, row.peerRead)) return 'sent';
  return seq <= row.peerRead ? 'read' : 'delivered';
}

const SHAPES = { sending: '◷', sent: '✓', delivered: '✓✓', read: '✓✓', failed: '!' };

/** @param {{ tick: 'sending' | 'sent' | 'delivered' | 'read' | 'failed', why?: string }} props */
export function Tick({ tick, why }) {
  const word = t(tick, { why });
  return html`<span class="tick" data-tick=${tick} title=${word}><span aria-hidden="true">${SHAPES[tick]}</span><span class="unseen">${word}</span></span>`;
}
