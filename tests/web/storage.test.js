import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryStorage } from '../../chatd/web/sdk/storage.js';
import { message } from './fakes.js';
import { cases } from './storage_contract.js';

for (const [name, holds] of Object.entries(cases)) {
  test(`memory: ${name}`, async () => {
    const storage = memoryStorage();
    await storage.open();
    await holds(storage);
    await storage.close();
  });
}

test('memory keeps the newest messages of a conversation, within a quarter', async () => {
  const storage = memoryStorage({ messagesMax: 100 });
  const lead = await storage.lead();
  for (let seq = 1; seq <= 1000; seq++) {
    await storage.write({ reset: false, place: {}, messages: [['a:b', [message(seq)]]], rows: [], answered: [], failed: [], reads: [] }, lead);
  }
  const held = await storage.messages('a:b', { before: 1001, limit: 1000 });
  assert.ok(held.length >= 100 && held.length <= 125, `${held.length}`);
  assert.equal(held[held.length - 1].seq, 1000);
});
