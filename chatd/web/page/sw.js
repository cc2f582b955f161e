// The service worker: keeps the page's own files, so that it opens without a network, and shows notifications.

const KEPT = 'chatd-page';
const WORDS = 'chatd-words';
const PLACE = new URL('./', self.location.href).href;

self.addEventListener('install', (event) => {
  event.waitUntil(keepPage().then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => {
  event.waitUntil(self.clients.claim());
});

/** Fetch the page and all that it names, then forget what earlier versions named. */
async function keepPage() {
  const response = await fetch(PLACE, { cache: 'no-cache' });
  if (response.ok) await keepVersion(response);
}

async function keepVersion(response) {
  const cache = await caches.open(KEPT);
  const page = await response.clone().text();
  const named = [...new Set([...page.matchAll(/(?:href|src)="(assets\/[^"]+)"/g)].map((one) => new URL(one[1], PLACE).href))];
  const kept = new Set((await cache.keys()).map(({ url }) => url));
  await cache.addAll(named.filter((url) => !kept.has(url)));
  await cache.put(PLACE, response);
  for (const url of kept) if (url !== PLACE && !named.includes(url)) await cache.delete(url);
}

self.addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method !== 'GET' || !request.url.startsWith(PLACE)) return;
  const path = request.url.slice(PLACE.length).split(/[?#]/)[0];
  if (request.mode === 'navigate' && (path === '' || path === 'join')) event.respondWith(page(event));
  else if (path.startsWith('assets/')) event.respondWith(asset(request));
});

async function page(event) {
  try {
    const response = await fetch(event.request);
    if (response.ok) event.waitUntil(keepVersion(response.clone()).catch(() => {})); // the next time, then
    if (response.status < 500) return response;
  } catch {
    // no network: below
  }
  return (await caches.match(PLACE)) ?? Response.error();
}

const asset = async (request) => (await caches.match(request)) ?? fetch(request);

// --- notifications: docs/protocol.md 5.1 -----------------------------------------------------------------

self.addEventListener('push', (event) => {
  let told = null;
  try {
    told = event.data?.json();
  } catch {
    return; // not ours
  }
  if (told?.type === 'message') event.waitUntil(show(told));
  else if (told?.type === 'clear') event.waitUntil(clear(told));
  else if (told?.type === 'test') event.waitUntil(self.registration.showNotification('chatd', { body: told.text, tag: told.tag }));
});

async function words() {
  const kept = await caches.match('words', { cacheName: WORDS });
  return kept ? kept.json() : { newMessages: { one: '{n} new message', other: '{n} new messages' }, language: 'en' };
}

async function show({ key, tag, to, conv, sender, count, seq, ts, badge, body }) {
  const there = await self.registration.getNotifications({ tag });
  if (there.some(({ data }) => data?.key === key || data?.seq > seq)) return; // the same again, or a newer one is shown
  const { newMessages, language } = await words();
  const many = newMessages[new Intl.PluralRules(language).select(count)] ?? newMessages.other;
  await self.registration.showNotification(sender, {
    body: body ?? many.replace('{n}', count), tag, renotify: true, timestamp: ts, dir: 'auto', lang: language,
    icon: 'page/icon-192.png', data: { key, to, conv, sender, seq },
  });
  await showCount(badge);
}

async function clear({ tag, seq, badge }) {
  for (const one of await self.registration.getNotifications({ tag })) if (!(one.data?.seq > seq)) one.close();
  await showCount(badge);
}

async function showCount(badge) {
  if (!self.navigator.setAppBadge || badge === undefined) return;
  await (badge ? self.navigator.setAppBadge(badge) : self.navigator.clearAppBadge()).catch(() => {}); // not installed
}

self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  const { to, sender } = event.notification.data ?? {};
  event.waitUntil(open(sender ? `#/as/${encodeURIComponent(to)}/with/${encodeURIComponent(sender)}` : '#/'));
});

/** Lead a window that is there to the conversation, or open one. */
async function open(place) {
  const windows = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
  const one = windows.find(({ focused }) => focused) ?? windows.find(({ visibilityState }) => visibilityState === 'visible') ?? windows[0];
  if (!one) {
    await self.clients.openWindow(PLACE + place);
    return;
  }
  one.postMessage({ open: place });
  await one.focus().catch(() => {}); // the browser may not let it come to the front
}
