-- The log is a table in order of arrival (its key is the rowid), with two narrow indexes that keep a
-- conversation together: its order, and its ids. Measured against a WITHOUT ROWID table with the id in
-- a unique index over everything: a third of the time a row, a fifth of the bytes written.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE conversation (
    key INTEGER PRIMARY KEY,
    a TEXT NOT NULL,             -- the two users in order; the same one twice: notes to self
    b TEXT NOT NULL,
    head INTEGER NOT NULL,       -- last seq
    ts_ms INTEGER NOT NULL,      -- of the last message
    last_a INTEGER NOT NULL,     -- last seq that a sent
    last_b INTEGER NOT NULL,
    hidden INTEGER NOT NULL,     -- last seq that is hidden from its recipient
    changed INTEGER NOT NULL,    -- number of the last commit that brought a message or a mark
    UNIQUE (a, b)
);
CREATE INDEX conversation_b ON conversation (b);

CREATE TABLE message (
    key INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    sender INTEGER NOT NULL,     -- 0: a, 1: b
    id BLOB NOT NULL,            -- the 16 bytes of the UUID
    ts_ms INTEGER NOT NULL,
    hidden INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX message_seq ON message (conversation, seq);
CREATE UNIQUE INDEX message_id ON message (conversation, id, sender);

CREATE TABLE mark (
    conversation INTEGER NOT NULL,
    member INTEGER NOT NULL,     -- 0: a, 1: b
    device TEXT NOT NULL,
    position INTEGER NOT NULL,   -- what this device is known to hold: its start, then what it acknowledged
    delivered INTEGER NOT NULL,
    read INTEGER NOT NULL,
    PRIMARY KEY (conversation, member, device)
) WITHOUT ROWID;

CREATE TABLE enrolled (
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    PRIMARY KEY (user, device)
) WITHOUT ROWID;

CREATE TABLE block (
    blocker TEXT NOT NULL,
    blocked TEXT NOT NULL,
    blocker_delivered INTEGER NOT NULL,  -- both users' marks when the block began: all that the other one sees
    blocker_read INTEGER NOT NULL,
    blocked_delivered INTEGER NOT NULL,
    blocked_read INTEGER NOT NULL,
    PRIMARY KEY (blocker, blocked)
) WITHOUT ROWID;

CREATE TABLE account (
    user TEXT PRIMARY KEY,
    password_hash TEXT,
    admin INTEGER NOT NULL,
    disabled INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE device (
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    name TEXT NOT NULL,
    token_hash BLOB,             -- 32 bytes of hash; NULL: a host application's JWT
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    PRIMARY KEY (user, device)
) WITHOUT ROWID;
CREATE UNIQUE INDEX device_token ON device (token_hash) WHERE token_hash IS NOT NULL;

CREATE TABLE invite (
    hash BLOB PRIMARY KEY,
    admin INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
