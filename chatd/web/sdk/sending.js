// One message on its way, as its sender holds it.

/** @typedef {import('./view.js').Place} Place */
/**
 * @typedef {object} Sending Who does not look at a promise is not troubled by its rejection.
 * @property {string} id
 * @property {string} conv
 * @property {Promise<void>} stored it is in the outbox: this page may go
 * @property {Promise<Place>} sent it is durable on the server, there; rejects with the ChatdError with which the server
 *   refused it for good (then `retry` or `discard` it), or `stopped`: the client ended first, the message stays stored
 * @property {Promise<Place>} delivered a device of the peer has it
 * @property {Promise<Place>} read the peer has read it
 */

/**
 * @param {import('./view.js').View} view
 * @param {{ id: string, conv: string, stored: Promise<void>, sent: Promise<Place> }} made
 * @returns {Sending}
 */
export function sending(view, { id, conv, stored, sent }) {
  /** @param {'peerDelivered' | 'peerRead'} mark */
  const after = (mark) => quiet(sent.then(async (place) => {
    await view.marked(place.conv, place.seq, mark);
    return place;
  }));
  return {
    id,
    conv,
    stored: quiet(stored),
    sent: quiet(sent),
    get delivered() {
      return after('peerDelivered');
    },
    get read() {
      return after('peerRead');
    },
  };
}

/** @template T @param {Promise<T>} promise */
function quiet(promise) {
  promise.catch(() => {});
  return promise;
}
