-- name: load_conversation
SELECT key, head, ts_ms, last_a, last_b, hidden, trimmed, trimmed_ms FROM conversation WHERE a = ? AND b = ?;

-- name: load_marks
SELECT member, device, position, delivered, read FROM mark WHERE conversation = ?;

-- name: load_blocks
SELECT blocker FROM block WHERE (blocker = :a AND blocked = :b) OR (blocker = :b AND blocked = :a);

-- name: find
SELECT m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden, m.checksum FROM message m
WHERE m.conversation = (SELECT key FROM conversation WHERE a = ? AND b = ?) AND m.sender = ? AND m.id = ?;

-- name: find_by_key
SELECT seq, id, sender, body, ts_ms, hidden, checksum FROM message WHERE conversation = ? AND sender = ? AND id = ?;

-- name: read_after
SELECT m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden, m.checksum FROM message m
WHERE m.conversation = (SELECT key FROM conversation WHERE a = ? AND b = ?) AND m.seq > ?
ORDER BY m.seq LIMIT ?;

-- name: read_before
SELECT m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden, m.checksum FROM message m
WHERE m.conversation = (SELECT key FROM conversation WHERE a = ? AND b = ?) AND m.seq < ?
ORDER BY m.seq DESC LIMIT ?;

-- name: extent
SELECT trimmed, trimmed_ms, head FROM conversation WHERE a = ? AND b = ?;

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
SELECT p.key, p.a, p.b, p.head, p.ts_ms, p.last_a, p.last_b, p.hidden, p.changed, p.trimmed, p.trimmed_ms,
       m.seq, m.id, m.sender, m.body, m.ts_ms, m.hidden, m.checksum
FROM page p LEFT JOIN message m ON m.conversation = p.key AND m.seq = p.head
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
INSERT INTO account (user, password_hash, admin, disabled, deleted, created_ms, shows_last_seen)
VALUES (?, ?, ?, ?, 0, ?, ?) ON CONFLICT DO NOTHING;

-- name: account
SELECT user, password_hash, admin, disabled, created_ms, shows_last_seen FROM account WHERE user = ? AND deleted = 0;

-- name: accounts
SELECT user, password_hash, admin, disabled, created_ms, shows_last_seen FROM account
WHERE user > ? AND deleted = 0 ORDER BY user LIMIT ?;

-- name: set_password
UPDATE account SET password_hash = ? WHERE user = ? AND deleted = 0;

-- name: set_disabled
UPDATE account SET disabled = ? WHERE user = ? AND deleted = 0;

-- name: set_admin
UPDATE account SET admin = ? WHERE user = ? AND deleted = 0;

-- name: delete_account
UPDATE account SET deleted = 1, password_hash = NULL, last_seen_ms = NULL WHERE user = ? AND deleted = 0;

-- name: delete_devices
DELETE FROM device WHERE user = ?;

-- name: put_device
INSERT INTO device (user, device, name, token_hash, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (user, device) DO UPDATE SET
    name = excluded.name, token_hash = excluded.token_hash, expires_ms = excluded.expires_ms
WHERE excluded.token_hash IS NOT NULL;

-- name: identity
SELECT d.user, d.device, d.name, d.created_ms, d.expires_ms,
       c.user, c.password_hash, c.admin, c.disabled, c.created_ms, c.shows_last_seen
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

-- name: set_shows_last_seen
UPDATE account SET shows_last_seen = ? WHERE user = ? AND deleted = 0;

-- name: seen
UPDATE account SET last_seen_ms = max(coalesce(last_seen_ms, 0), told.value)
FROM json_each(?) AS told WHERE account.user = told.key AND account.deleted = 0;

-- name: acquainted
SELECT other.value, c.shows_last_seen, c.last_seen_ms
FROM json_each(:others) AS other
CROSS JOIN account c ON c.user = other.value AND c.deleted = 0
CROSS JOIN conversation v ON v.a = min(:user, other.value) AND v.b = max(:user, other.value) AND v.head > 0
WHERE NOT EXISTS (SELECT 1 FROM block WHERE blocker = :user AND blocked = other.value)
  AND NOT EXISTS (SELECT 1 FROM block WHERE blocker = other.value AND blocked = :user)
ORDER BY other.key;

-- name: put_subscription
INSERT INTO subscription (user, device, kind, endpoint, keys, created_ms)
SELECT user, device, ?, ?, ?, ? FROM device WHERE user = ? AND device = ?
ON CONFLICT (user, device) DO UPDATE SET
    kind = excluded.kind, endpoint = excluded.endpoint, keys = excluded.keys, created_ms = excluded.created_ms;

-- name: remove_subscription
DELETE FROM subscription WHERE user = :user AND device = :device AND endpoint = coalesce(:endpoint, endpoint);

-- name: delete_subscriptions
DELETE FROM subscription WHERE user = ?;

-- name: subscriptions
SELECT s.user, s.device, s.kind, s.endpoint, s.keys, s.created_ms
FROM subscription s JOIN device d ON d.user = s.user AND d.device = s.device
WHERE s.user = :user AND (d.expires_ms IS NULL OR d.expires_ms > :now_ms)
  AND NOT EXISTS (SELECT 1 FROM account WHERE user = :user AND (disabled <> 0 OR deleted <> 0))
ORDER BY s.device;

-- name: push_state
SELECT coalesce(max(k.delivered), 0), coalesce(max(k.read), 0),
       coalesce((SELECT seq FROM pushed WHERE conversation = :key AND member = :member), 0)
FROM mark k WHERE k.conversation = :key AND k.member = :member;

-- name: newest_visible
SELECT seq, id, sender, body, ts_ms, hidden, checksum FROM message
WHERE conversation = :key AND seq > :above AND seq <= :upto AND sender = :sender AND hidden = 0
ORDER BY seq DESC LIMIT 1;

-- name: badge
WITH mine AS (
    SELECT key, head, max(last_a, trimmed) AS own, hidden, 0 AS member FROM conversation WHERE a = :user AND b <> :user
    UNION ALL
    SELECT key, head, max(last_b, trimmed), hidden, 1 FROM conversation WHERE b = :user AND a <> :user
), based AS (
    SELECT m.key, m.head, m.hidden, max(m.own, coalesce(max(k.read), 0)) AS base
    FROM mine m LEFT JOIN mark k ON k.conversation = m.key AND k.member = m.member
    WHERE m.head > m.own
    GROUP BY m.key
)
SELECT coalesce(sum(CASE WHEN hidden > base
    THEN (SELECT count(*) FROM message WHERE conversation = based.key AND seq > base AND message.hidden = 0)
    ELSE head - base END), 0)
FROM based WHERE head > base;

-- name: raise_pushed
INSERT INTO pushed (conversation, member, seq)
SELECT c.key, json_extract(told.value, '$[2]'), min(json_extract(told.value, '$[3]'), c.head)
FROM json_each(?) AS told
CROSS JOIN conversation c ON c.a = json_extract(told.value, '$[0]') AND c.b = json_extract(told.value, '$[1]')
WHERE c.head > 0
ON CONFLICT DO UPDATE SET seq = excluded.seq WHERE excluded.seq > seq;

-- name: page_of_conversations
SELECT max(key), count(*) FROM (SELECT key FROM conversation WHERE key > ? ORDER BY key LIMIT ?);

-- name: unpushed
WITH side AS (
    SELECT c.key, c.a, c.b, c.ts_ms, c.hidden, c.trimmed, m.value AS member, iif(m.value, c.last_a, c.last_b) AS last,
           coalesce((SELECT seq FROM pushed WHERE conversation = c.key AND member = m.value), 0) AS told
    FROM conversation c CROSS JOIN (SELECT 0 AS value UNION ALL SELECT 1) m
    WHERE c.key > :after AND c.key <= :upto AND c.a <> c.b AND (:every_user
          OR EXISTS (SELECT 1 FROM subscription WHERE user = iif(m.value, c.b, c.a)))
    LIMIT -1  -- keeps it a table of its own, so that what is computed here is computed once
), marked AS (
    SELECT *,
           max(told, trimmed, coalesce((SELECT max(delivered) FROM mark k
                                        WHERE k.conversation = side.key AND k.member = side.member), 0)) AS base,
           told > 0 AND told > coalesce((SELECT max(read) FROM mark k
                                         WHERE k.conversation = side.key AND k.member = side.member), 0) AS shown
    FROM side WHERE last > told OR told > 0
    LIMIT -1
)
SELECT key, a, b, member, last, hidden, base, iif(shown, told, 0), ts_ms >= :newer_than_ms AS young,
       EXISTS (SELECT 1 FROM block WHERE blocker = a AND blocked = b)
       OR EXISTS (SELECT 1 FROM block WHERE blocker = b AND blocked = a) AS apart
FROM marked WHERE shown OR (young AND last > base AND NOT apart);

-- name: leaving_convs
SELECT key, a, b FROM conversation WHERE key > ? ORDER BY key LIMIT ?;

-- name: leaving_blocks
SELECT DISTINCT min(blocker, blocked), max(blocker, blocked) FROM block
WHERE NOT EXISTS (SELECT 1 FROM conversation WHERE a = min(blocker, blocked) AND b = max(blocker, blocked))
ORDER BY 1, 2;

-- name: leaving_messages
SELECT seq, id, sender, body, ts_ms, hidden, checksum FROM message
WHERE conversation = ? AND seq > ? ORDER BY seq LIMIT ?;

-- name: leaving_hidden
SELECT count(*) FROM message WHERE conversation = ? AND seq <= ? AND hidden <> 0;

-- name: leaving_erased
SELECT count(*) FROM conversation c JOIN message m ON m.conversation = c.key AND m.hidden = ?
WHERE c.a = ? AND c.b = ? AND c.hidden > 0;

-- name: leaving_visible
SELECT sum(hidden <> 0), coalesce(max(seq) FILTER (WHERE sender = 0 AND hidden = 0), 0),
       coalesce(max(seq) FILTER (WHERE sender = 1 AND hidden = 0), 0)
FROM message WHERE conversation = ?;

-- name: leaving_marks
SELECT member, device, position, delivered, read FROM mark WHERE conversation = ?;

-- name: leaving_account
SELECT deleted, last_seen_ms, user, password_hash, admin, disabled, created_ms, shows_last_seen FROM account
WHERE user = ?;

-- name: leaving_devices
SELECT user, device, name, created_ms, expires_ms, token_hash FROM device WHERE user = ? ORDER BY device;

-- name: leaving_subscriptions
SELECT user, device, kind, endpoint, keys, created_ms FROM subscription WHERE user = ? ORDER BY device;

-- name: leaving_index
SELECT a, b FROM (
    SELECT key, a, b, changed FROM conversation WHERE a = :user AND head > 0
    UNION ALL
    SELECT key, a, b, changed FROM conversation WHERE b = :user AND a <> :user AND head > 0
) ORDER BY changed, key;

-- name: to_trim
SELECT c.key, c.a, c.b FROM conversation c JOIN message m ON m.conversation = c.key AND m.seq = c.trimmed + 1
WHERE c.key > :after AND c.key <= :upto AND m.ts_ms < :older_than_ms ORDER BY c.key;

-- name: oldest
SELECT seq, ts_ms FROM message WHERE conversation = ? AND seq > ? AND seq <= ? ORDER BY seq;

-- name: delete_messages
DELETE FROM message WHERE conversation = ? AND seq > ? AND seq <= ?;

-- name: trimmed_to
UPDATE conversation SET trimmed = ?, trimmed_ms = ? WHERE key = ?;

-- name: delete_enrolled
DELETE FROM enrolled WHERE user = ?;

-- name: convs_of
SELECT key, a, b FROM (
    SELECT key, a, b FROM conversation WHERE a = :user
    UNION ALL
    SELECT key, a, b FROM conversation WHERE b = :user AND a <> :user
) WHERE key >= :from ORDER BY key;

-- name: to_erase
SELECT seq, id, ts_ms FROM message WHERE conversation = ? AND seq > ? AND sender = ? AND hidden <> ?
ORDER BY seq LIMIT ?;

-- name: erase_message
UPDATE message SET body = '', hidden = ?, checksum = ? WHERE conversation = ? AND seq = ?;

-- name: hidden_to
UPDATE conversation SET hidden = max(hidden, ?) WHERE key = ?;
