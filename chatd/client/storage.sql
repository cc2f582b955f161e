CREATE TABLE IF NOT EXISTS identity (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    to_user TEXT,
    conv TEXT,
    body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS conversations (
    changed INTEGER PRIMARY KEY AUTOINCREMENT, -- a replaced row goes to the end: the newest are last
    conv TEXT NOT NULL UNIQUE,
    taken INTEGER,
    read_wanted INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    read INTEGER NOT NULL,
    peer_delivered INTEGER NOT NULL,
    peer_read INTEGER NOT NULL,
    head INTEGER NOT NULL DEFAULT 0, -- unread are the messages above `floor`, up to here
    floor INTEGER NOT NULL DEFAULT 0
);
