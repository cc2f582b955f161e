"""The web client: a page and a JavaScript SDK, served as the files they are; nothing is built."""
