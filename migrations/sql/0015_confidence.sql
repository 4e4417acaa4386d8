-- What lexical_coverage and confidence of a bot's results are computed from. statistics_version: a new value whenever the
-- bot's row of term_counts or its calibration changes, so that all servers use the same. NULL: neither so far.
ALTER TABLE bot_registry ADD COLUMN statistics_version uuid;

-- In how many chunks of a sample each term of a bot occurs.
CREATE TABLE term_counts (
    bot_id           uuid PRIMARY KEY REFERENCES bot_registry ON DELETE CASCADE,
    analyzer_version smallint NOT NULL,
    title_in_lexical boolean NOT NULL,
    -- Chunks in the sample.
    sampled          integer NOT NULL,
    -- n hashes of 4 bytes, ascending, then n counts of 2 bytes, all little-endian.
    terms            bytea NOT NULL,
    -- The bot's size when the sample was drawn: its chunks, as far as they were counted, and pages of its partition.
    chunks           integer NOT NULL,
    pages            integer NOT NULL,
    sampled_at       timestamptz NOT NULL DEFAULT now(),
    -- When a server last compared the bot's size with it.
    checked_at       timestamptz NOT NULL DEFAULT now()
);
-- Hashes do not compress.
ALTER TABLE term_counts ALTER COLUMN terms SET STORAGE EXTERNAL;

-- Coefficients of confidence that replace those of the server's code. app.schemas.rows.Calibration says what they mean.
CREATE TABLE calibrations (
    embedding_model  text NOT NULL,
    dimension        integer NOT NULL,
    analyzer_version smallint NOT NULL,
    with_similarity  double precision[] NOT NULL,
    words_only       double precision[] NOT NULL,
    calibrated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (embedding_model, dimension, analyzer_version)
);
