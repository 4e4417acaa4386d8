-- Bots whose collection in Milvus was lost, whole or in part, while their vectors are made again from the record.
CREATE TABLE index_rebuilds (
    bot_id            uuid PRIMARY KEY REFERENCES bot_registry ON DELETE CASCADE,
    -- From this generation on writers put vectors into the collection themselves.
    before_generation bigint NOT NULL,
    -- The collection lost a part of its rows: what is still there stays.
    in_place          boolean NOT NULL,
    chunks_total      bigint NOT NULL,
    chunks_done       bigint NOT NULL DEFAULT 0,
    -- How many processes have begun on it; the server that works on it holds the lease.
    attempts          integer NOT NULL DEFAULT 0,
    lease_token       uuid,
    lease_until       timestamptz,
    started_at        timestamptz NOT NULL DEFAULT now()
);

-- When a collection's rows were counted last, so that one server at a time does it.
CREATE TABLE index_checks (
    bot_id     uuid PRIMARY KEY REFERENCES bot_registry ON DELETE CASCADE,
    checked_at timestamptz NOT NULL DEFAULT now()
);

-- is_next: the collection is being filled, so that a copy of what is deleted now may still land in it.
CREATE OR REPLACE VIEW bot_collections (bot_id, collection_name, dimension, is_next) AS
SELECT b.bot_id, coalesce(b.milvus_collection, b.collection_name), b.dimension,
       EXISTS (SELECT FROM index_rebuilds r WHERE r.bot_id = b.bot_id)
FROM bot_registry b
UNION ALL
SELECT bot_id, next_collection, next_dimension, true FROM bot_registry WHERE next_collection IS NOT NULL;
