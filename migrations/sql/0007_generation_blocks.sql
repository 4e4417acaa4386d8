-- Generations are reserved in Milvus, in blocks, before they are used: a database that was restored, copied or rolled
-- back jumps past all that were ever given out. docs/decisions/0017-generation-blocks.md

-- One row, which the first server makes: a dump of data alone can be loaded into a new schema.
CREATE TABLE installation (
    single           boolean PRIMARY KEY DEFAULT true CHECK (single),
    -- Milvus's marker names it too: this database's vectors are there.
    installation_id  uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The block in use; empty at first.
    first_generation bigint NOT NULL DEFAULT 1,
    last_generation  bigint NOT NULL DEFAULT 0,
    -- The transaction that wrote this row, and where. A row that was restored was not written by the transaction that it
    -- names; one that was copied or rolled back is in another database or under a postmaster that started later. The
    -- block of such a row may have been used since, so nothing more is taken from it.
    written_by       xid8,
    postmaster_start timestamptz,
    database_name    text
);

-- All blocks that this database ever had. The marker in Milvus has the same, with those of other databases.
CREATE TABLE generation_blocks (
    block_id         uuid PRIMARY KEY,
    first_generation bigint NOT NULL,
    last_generation  bigint NOT NULL CHECK (last_generation >= first_generation),
    reserved_at      timestamptz NOT NULL DEFAULT now()
);
