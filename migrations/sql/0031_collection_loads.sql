-- Bots that are not in use are taken out of Milvus's memory.
-- docs/decisions/0029-idle-collections.md

-- Whether the bot's collection stays in memory.
ALTER TABLE bot_registry ADD COLUMN pinned boolean NOT NULL DEFAULT false;

-- Of collections of bots that were in use. What is in memory is known to Milvus; this is how the servers last saw it.
CREATE TABLE collection_loads (
    collection_name text PRIMARY KEY,
    is_loaded       boolean NOT NULL,
    last_used_at    timestamptz NOT NULL DEFAULT now(),
    -- The process that loads or releases it has the lease.
    action          text CHECK (action IN ('load', 'release')),
    lease_token     uuid,
    lease_until     timestamptz
);
