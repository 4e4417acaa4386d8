-- Synchronizations of a bot with the documents of a client, one of a bot at a time.
CREATE TABLE sync_sessions (
    bot_id      uuid PRIMARY KEY REFERENCES bot_registry ON DELETE CASCADE,
    session_id  uuid NOT NULL,
    -- Renewed by each call of the client; afterwards another session may begin.
    lease_until timestamptz NOT NULL,
    -- A document of the client was not valid, and may be one that the bot has: nothing is deleted as missing.
    incomplete  boolean NOT NULL DEFAULT false
);

-- Documents that the bot had when the session began and that the client has not sent since.
CREATE TABLE sync_missing (
    bot_id      uuid NOT NULL REFERENCES sync_sessions ON DELETE CASCADE,
    external_id text NOT NULL,
    doc_id      bigint NOT NULL,
    PRIMARY KEY (bot_id, external_id)
);

-- By code point in every locale of the database, so that the unique index serves listings in this order too.
ALTER TABLE documents ALTER COLUMN external_id TYPE text COLLATE "C";
