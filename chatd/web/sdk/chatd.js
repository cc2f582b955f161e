// The client of a chatd server for browsers and Node. What each name promises stands where it is defined, and in README.md.

export { Chatd } from './client.js';
export { login, register } from './http.js';
export { indexedDbStorage } from './indexeddb.js';
export { ChatdError, convOf, isUser, newMessageId, peerOf } from './protocol.js';
export { memoryStorage } from './storage.js';
