// What a screen reader is told of what arrives; the log itself is silent, or every page of history would be read out.

import { html } from './html.js';
import { useEffect, useState } from './vendor/hooks.js';

let say = (_text) => {};

/** @param {string} text */
export const announce = (text) => say(text);

export function Announcer() {
  const [text, setText] = useState('');
  useEffect(() => {
    say = setText;
    return () => {
      say = () => {};
    };
  }, []);
  return html`<div class="unseen" aria-live="polite" id="announcer">${text}</div>`;
}
