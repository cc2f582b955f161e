-- Old messages may be deleted: up to which seq they were, so that the numbers, the marks and the heads stay.

ALTER TABLE conversation ADD COLUMN trimmed INTEGER NOT NULL DEFAULT 0;     -- all up to this seq are deleted
ALTER TABLE conversation ADD COLUMN trimmed_ms INTEGER NOT NULL DEFAULT 0;  -- ts_ms of the last one of them
