// From the SDK's events to a view: it is drawn again at most once a frame, however many events come.

import { useEffect, useReducer } from './vendor/hooks.js';

/**
 * Draw again after these events. `about`: only those for which it holds.
 * @param {any} chat @param {string[]} names @param {(event: any) => boolean} [about]
 */
export function useEvents(chat, names, about) {
  const [, again] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    let due = 0;
    const later = (event) => {
      if (due || (about && !about(event))) return;
      due = requestAnimationFrame(() => {
        due = 0;
        again();
      });
    };
    const offs = names.map((name) => chat.on(name, later));
    later();
    return () => {
      cancelAnimationFrame(due);
      offs.forEach((off) => off());
    };
  }, [chat]);
}
