// What few need is loaded when it is needed: the administration, for those who may see it.

import { html } from './html.js';
import { reason } from './settings.js';
import { t } from './strings.js';
import { useEffect, useState } from './vendor/hooks.js';

export function Admin({ chat, me }) {
  const [Page, setPage] = useState(null);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    let gone = false;
    const load = async () => {
      const { admin } = await chat.http.account();
      const loaded = admin && (await import('./admin.js'));
      if (gone) return;
      if (loaded) setPage(() => loaded.AdminPage);
      else setProblem(t('forbidden'));
    };
    load().catch((error) => !gone && setProblem(reason(error)));
    return () => {
      gone = true;
    };
  }, [chat]);
  if (Page) return html`<${Page} chat=${chat} me=${me} />`;
  return html`<p class="empty" role="status">${problem || t('loading')}</p>`;
}
