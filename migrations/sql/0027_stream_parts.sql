-- Bulk loads: what is stored of each part of a stream. Deleted with the bot, or some time after the last call of the stream.
CREATE TABLE stream_parts (
    bot_id     uuid NOT NULL REFERENCES bot_registry ON DELETE CASCADE,
    stream_key text COLLATE "C" NOT NULL,
    part       integer NOT NULL,
    -- The first lines of the part, whose results are stored, and the SHA-256 of these lines with their line ends.
    lines      bigint NOT NULL DEFAULT 0,
    sha256     bytea NOT NULL DEFAULT '',
    stored     bigint NOT NULL DEFAULT 0,
    failed     bigint NOT NULL DEFAULT 0,
    -- A saga of the lines that are being written; as in idempotency_keys.
    generation bigint,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bot_id, stream_key, part)
);

-- The results of lines, as one JSON object a line; those of one transaction in each row.
CREATE TABLE stream_results (
    bot_id     uuid NOT NULL,
    stream_key text COLLATE "C" NOT NULL,
    part       integer NOT NULL,
    last_line  bigint NOT NULL,
    failed     integer NOT NULL,
    results    bytea NOT NULL,
    PRIMARY KEY (bot_id, stream_key, part, last_line),
    FOREIGN KEY (bot_id, stream_key, part) REFERENCES stream_parts ON DELETE CASCADE
);
