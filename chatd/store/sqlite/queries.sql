-- name: load_conversation
SELECT key, head, ts_ms, last_a, last_b, hidden FROM conversation WHERE a = ? AND b = ?;

-- name: load_marks
SELECT member, device, position, delivered, read FROM mark WHERE conversation = ?;

-- name: load_blocks
SELECT blocker FROM block WHERE (blocker = :a AND blocked = :b) OR (blocker = :b AND blocked = :a);

-- name: find
SELECT m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden FROM message m
WHERE m.conversation = (SELECT key FROM conversation WHERE a = ? AND b = ?) AND m.sender = ? AND m.id = ?;

-- name: find_by_key
SELECT seq, id, sender, body, ts_ms, hidden FROM message WHERE conversation = ? AND sender = ? AND id = ?;

-- name: read_after
SELECT m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden FROM message m
WHERE m.conversation = (SELECT key FROM conversation WHERE a = ? AND b = ?) AND m.seq > ?
ORDER BY m.seq LIMIT ?;

-- name: read_before
SELECT m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden FROM message m
WHERE m.conversation = (SELECT key FROM conversation WHERE a = ? AND b = ?) AND m.seq < ?
ORDER BY m.seq DESC LIMIT ?;

-- name: head
SELECT head FROM conversation WHERE a = ? AND b = ?;

-- name: newest_change
SELECT max(
    coalesce((SELECT max(changed) FROM conversation WHERE a = :user), 0),
    coalesce((SELECT max(changed) FROM conversation WHERE b = :user), 0));

-- name: conversations
WITH mine AS (
    SELECT * FROM conversation WHERE a = :user
    UNION ALL
    SELECT * FROM conversation WHERE b = :user AND a <> :user
), page AS (
    SELECT * FROM mine
    WHERE head > 0 AND changed > :since AND (changed < :changed OR (changed = :changed AND key < :key))
    ORDER BY changed DESC, key DESC LIMIT :limit
)
SELECT p.key, p.a, p.b, p.head, p.ts_ms, p.last_a, p.last_b, p.hidden, p.changed,
       m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden
FROM page p JOIN message m ON m.conversation = p.key AND m.seq = p.head
ORDER BY p.changed DESC, p.key DESC;

-- name: frozen
SELECT blocker, blocker_delivered, blocker_read, blocked_delivered, blocked_read FROM block
WHERE (blocker = :a AND blocked = :b) OR (blocker = :b AND blocked = :a);

-- name: unread_visible
SELECT count(*) FROM message WHERE conversation = ? AND seq > ? AND hidden = 0;

-- name: position
SELECT k.position FROM mark k
WHERE k.conversation = (SELECT key FROM conversation WHERE a = ? AND b = ?) AND k.member = ? AND k.device = ?;

-- name: starts
WITH mine AS (
    SELECT key, head, changed, 0 AS member FROM conversation WHERE a = :user
    UNION ALL
    SELECT key, head, changed, 1 FROM conversation WHERE b = :user AND a <> :user
), ranked AS (
    SELECT key, head, member, row_number() OVER (ORDER BY changed DESC, key DESC) AS place FROM mine WHERE head > 0
)
INSERT INTO mark (conversation, member, device, position, delivered, read)
SELECT key, member, :device, CASE WHEN place <= :newest THEN max(0, head - :history) ELSE head END, 0, 0
FROM ranked WHERE true
ON CONFLICT DO UPDATE SET position = excluded.position;

-- name: add_block
INSERT INTO block VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: remove_block
DELETE FROM block WHERE blocker = ? AND blocked = ?;

-- name: blocks
SELECT blocked FROM block WHERE blocker = ? ORDER BY blocked;

-- name: counts
SELECT (SELECT count(*) FROM account WHERE deleted = 0),
       (SELECT count(*) FROM conversation WHERE head > 0),
       (SELECT coalesce(sum(head), 0) FROM conversation);

-- name: add_account
INSERT INTO account VALUES (?, ?, ?, ?, 0, ?) ON CONFLICT DO NOTHING;

-- name: account
SELECT user, password_hash, admin, disabled, created_ms FROM account WHERE user = ? AND deleted = 0;

-- name: accounts
SELECT user, password_hash, admin, disabled, created_ms FROM account
WHERE user > ? AND deleted = 0 ORDER BY user LIMIT ?;

-- name: set_password
UPDATE account SET password_hash = ? WHERE user = ? AND deleted = 0;

-- name: set_disabled
UPDATE account SET disabled = ? WHERE user = ? AND deleted = 0;

-- name: delete_account
UPDATE account SET deleted = 1, password_hash = NULL WHERE user = ? AND deleted = 0;

-- name: delete_devices
DELETE FROM device WHERE user = ?;

-- name: put_device
INSERT INTO device (user, device, name, token_hash, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (user, device) DO UPDATE SET
    name = excluded.name, token_hash = excluded.token_hash, expires_ms = excluded.expires_ms
WHERE excluded.token_hash IS NOT NULL;

-- name: identity
SELECT d.user, d.device, d.name, d.created_ms, d.expires_ms,
       c.user, c.password_hash, c.admin, c.disabled, c.created_ms
FROM device d JOIN account c ON c.user = d.user AND c.deleted = 0 WHERE d.token_hash = ?;

-- name: device
SELECT user, device, name, created_ms, expires_ms FROM device WHERE user = ? AND device = ?;

-- name: devices
SELECT user, device, name, created_ms, expires_ms FROM device WHERE user = ? ORDER BY created_ms, device;

-- name: remove_device
DELETE FROM device WHERE user = ? AND device = ?;

-- name: add_invite
INSERT INTO invite VALUES (?, ?, ?);

-- name: invite
SELECT admin FROM invite WHERE hash = ? AND expires_ms > ?;

-- name: use_invite
DELETE FROM invite WHERE hash = ?;
