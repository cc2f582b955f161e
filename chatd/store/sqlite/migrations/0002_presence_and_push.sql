-- What is owed to whom is not stored: it follows from the log, the marks and one number a user and conversation
-- that was notified. So a commit and an acknowledgement write what they wrote before.

ALTER TABLE account ADD COLUMN shows_last_seen INTEGER NOT NULL DEFAULT 1;
ALTER TABLE account ADD COLUMN last_seen_ms INTEGER;  -- NULL: not known

CREATE TABLE subscription (
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    keys TEXT NOT NULL,          -- a JSON object of texts
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (user, device)
) WITHOUT ROWID;

CREATE TABLE pushed (
    conversation INTEGER NOT NULL,
    member INTEGER NOT NULL,     -- 0: a, 1: b
    seq INTEGER NOT NULL,        -- the user was told of everything up to it
    PRIMARY KEY (conversation, member)
) WITHOUT ROWID;
