-- A bit that flips in a text or a number is seen by nobody but a checksum. Messages from before have none.

ALTER TABLE message ADD COLUMN checksum INTEGER;  -- CRC-32, see rows.py
