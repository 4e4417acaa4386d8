-- Quotas of accounts: docs/decisions/0030-quotas.md

CREATE TABLE account_quotas (
    account_name text PRIMARY KEY CHECK (account_name <> ''),
    -- The most that the account may have. NULL: no limit.
    bots         bigint CHECK (bots >= 0),
    documents    bigint CHECK (documents >= 0),
    chunks       bigint CHECK (chunks >= 0),
    CHECK (num_nonnulls(bots, documents, chunks) > 0)
);

-- How many current documents the bots of these accounts have, and how many chunks of these. The transactions that
-- change documents change it too. Rows of a few bytes, changed often: half of each page is left to new versions.
CREATE TABLE bot_usage (
    bot_id    uuid PRIMARY KEY REFERENCES bot_registry ON DELETE CASCADE,
    documents bigint NOT NULL,
    chunks    bigint NOT NULL
) WITH (fillfactor = 50);

-- Whether the bot has a row of bot_usage. In the row that each write locks, so that a write without quotas reads no more
-- than before, and a write that waited for the bot sees what is true afterwards.
ALTER TABLE bot_registry ADD COLUMN is_counted boolean NOT NULL DEFAULT false;
