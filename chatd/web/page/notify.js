// Notifications: the service worker, the subscription, and taking back what was read.

import { SERVER } from './kept.js';
import { workerWords } from './strings.js';

const WORDS = 'chatd-words';

/** A string becomes a script's address here and nowhere else: the page's policy wants that said. */
const policy = globalThis.trustedTypes?.createPolicy('chatd', {
  createScriptURL: (address) => {
    if (address !== new URL('sw.js', SERVER).href) throw new TypeError(`not a script of this page: ${address}`);
    return address;
  },
});

/** Keeps the page there without a network, and shows notifications. Only in a secure context (https, or localhost). */
export async function startWorker() {
  if (!('serviceWorker' in navigator)) return;
  const address = new URL('sw.js', SERVER).href;
  try {
    await navigator.serviceWorker.register(policy ? policy.createScriptURL(address) : address, { scope: SERVER });
    await tellWords();
  } catch (error) {
    console.warn('no service worker', error); // the page works without; notifications and offline start do not
  }
}

async function tellWords() {
  const cache = await caches.open(WORDS);
  await cache.put('words', new Response(JSON.stringify(workerWords())));
}

/** A click on a notification leads to its conversation. */
export function listenToWorker() {
  navigator.serviceWorker?.addEventListener('message', ({ data }) => {
    if (typeof data?.open === 'string') location.hash = data.open;
  });
}

async function registration() {
  if (!('serviceWorker' in navigator) || !('PushManager' in globalThis) || !('Notification' in globalThis)) return null;
  return navigator.serviceWorker.ready;
}

/** @returns {Promise<'none' | 'denied' | 'off' | 'on'>} */
export async function notificationState(chat) {
  if (!('PushManager' in globalThis) || !(await chat.http.vapidKey())) return 'none';
  if (Notification.permission === 'denied') return 'denied';
  if (Notification.permission !== 'granted') return 'off';
  const mine = await (await registration())?.pushManager.getSubscription();
  const theirs = await chat.http.subscription();
  return mine && theirs?.endpoint === mine.endpoint ? 'on' : 'off';
}

/** @param {any} chat @param {boolean} on */
export async function switchNotifications(chat, on) {
  const worker = await registration();
  if (!worker) return 'none';
  if (!on) {
    // The browser's subscription stays: another account of this browser may use it.
    await chat.http.unsubscribePush();
    return 'off';
  }
  if ((await Notification.requestPermission()) !== 'granted') return 'denied';
  await tellWords();
  const key = await chat.http.vapidKey();
  const options = { userVisibleOnly: true, applicationServerKey: key };
  const subscription = await worker.pushManager.subscribe(options).catch(async (error) => {
    // A subscription of another server, or of this one before its key changed, is in the way.
    const old = await worker.pushManager.getSubscription();
    if (!old) throw error;
    await old.unsubscribe();
    return worker.pushManager.subscribe(options);
  });
  await chat.http.subscribePush(subscription.toJSON());
  return 'on';
}

/** Take back what is shown of a conversation up to a seq. @param {string} user @param {string} conv @param {number} seq */
export async function clearNotifications(user, conv, seq) {
  if (!('serviceWorker' in navigator) || globalThis.Notification?.permission !== 'granted') return;
  const worker = await navigator.serviceWorker.getRegistration(SERVER);
  for (const one of (await worker?.getNotifications()) ?? []) {
    if (one.data?.to === user && one.data.conv === conv && one.data.seq <= seq) one.close();
  }
}
