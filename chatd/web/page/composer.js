// Where a message is written. What is not sent yet is kept as a draft, in this browser only.

import { html } from './html.js';
import { draft, keepDraft } from './kept.js';
import { why } from './message.js';
import { t } from './strings.js';
import { useEffect, useRef, useState } from './vendor/hooks.js';

const TYPING_EVERY_MS = 3_500;
const IDLE_MS = 5_000;

export function Composer({ chat, me, peer }) {
  const field = useRef(null);
  const [problem, setProblem] = useState('');
  const said = useRef({ ms: 0, timer: 0 });
  const conv = () => chat.conversations().find((row) => row.peer === peer)?.conv ?? chat.convWith(peer);

  const grow = () => {
    const one = field.current;
    one.style.height = 'auto';
    one.style.height = `${Math.min(one.scrollHeight + 2, innerHeight / 3)}px`;
  };
  const typing = (on) => {
    const now = Date.now();
    clearTimeout(said.current.timer);
    if (on) said.current.timer = setTimeout(() => typing(false), IDLE_MS);
    if (peer === me || (on ? now - said.current.ms < TYPING_EVERY_MS : said.current.ms === 0)) return;
    said.current.ms = on ? now : 0;
    chat.typing(conv(), on);
  };

  useEffect(() => {
    field.current.value = draft(me, peer);
    grow();
    // On a phone the keyboard would cover what one came to read.
    if (matchMedia('(pointer: fine)').matches) field.current.focus();
    return () => typing(false);
  }, [peer]);

  const submit = (event) => {
    event.preventDefault();
    const body = field.current.value;
    if (!body.trim()) return;
    const sending = chat.send(peer, body.replaceAll('\0', ''));
    sending.sent.catch((error) => {
      // What was stored shows its refusal where it stands; what was not comes back.
      if (error.code === 'stopped' || chat.outbox(sending.conv).some(({ id }) => id === sending.id)) return;
      if (!field.current?.value) {
        keepDraft(me, peer, body);
        if (field.current) field.current.value = body;
      }
      setProblem(t('failed', { why: why(error.code) }));
    });
    setProblem('');
    field.current.value = '';
    keepDraft(me, peer, '');
    typing(false);
    grow();
    field.current.focus();
  };
  const pressed = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || !matchMedia('(pointer: fine)').matches) return;
    submit(event);
  };
  const written = () => {
    keepDraft(me, peer, field.current.value);
    typing(field.current.value !== '');
    grow();
  };
  return html`
    <form class="composer" onSubmit=${submit}>
      <textarea id="write" ref=${field} rows="1" dir="auto" aria-label=${t('message')} placeholder=${t('message')}
        onInput=${written} onKeyDown=${pressed} onBlur=${() => typing(false)}></textarea>
      <button class="primary">${t('send')}</button>
      <p role="alert" class="problem">${problem}</p>
    </form>
  `;
}
