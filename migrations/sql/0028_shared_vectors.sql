-- Vectors of small writes of the last seconds, which other processes read instead of waiting until Milvus shows them.
-- docs/decisions/0024-recent-vectors.md

ALTER TABLE bot_registry
    -- The newest timestamp of a write whose vectors are not in recent_vectors.
    ADD COLUMN unshared_timestamp bigint NOT NULL DEFAULT 0;

-- Whether the write's process puts its vectors into recent_vectors, or its timestamp into unshared_timestamp. An older
-- server, which does neither, leaves it false.
ALTER TABLE sagas ADD COLUMN shares_vectors boolean NOT NULL DEFAULT false;

UPDATE bot_registry SET unshared_timestamp = milvus_timestamp;

CREATE TABLE recent_vectors (
    bot_id uuid NOT NULL,
    milvus_timestamp bigint NOT NULL,
    chunk_id bigint NOT NULL,
    doc_id bigint NOT NULL,
    -- Not a clock of Milvus: when the row may be swept.
    written_at timestamptz NOT NULL DEFAULT now(),
    -- float32, little endian.
    embedding bytea NOT NULL,
    PRIMARY KEY (bot_id, milvus_timestamp, chunk_id)
) WITH (
    -- Vectors of up to 2,000 dimensions stay in the page: they are read by every search of a second, and soon deleted.
    toast_tuple_target = 8160,
    -- Every row is deleted after seconds, so the table stays small if it is vacuumed often.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 1000
);
-- Not compressed: vectors do not get smaller.
ALTER TABLE recent_vectors ALTER COLUMN embedding SET STORAGE EXTERNAL;

-- Pinned in the functions below: the search_path of a restore and of a subscription is empty.
DO
$$
BEGIN
    PERFORM set_config('search_path', format('%I, pg_temp', relnamespace::regnamespace::text), true)
    FROM pg_class WHERE oid = 'bot_registry'::regclass;
END
$$;

CREATE FUNCTION forget_shared_vectors() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    UPDATE bot_registry SET unshared_timestamp = milvus_timestamp
    WHERE bot_id = OLD.bot_id AND unshared_timestamp < milvus_timestamp;
    RETURN NULL;
END
$$;

-- As forget_last_writer on the same table, for the servers of the version before.
CREATE CONSTRAINT TRIGGER forget_shared_vectors
    AFTER DELETE ON sagas DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.operation = 'write' AND NOT OLD.shares_vectors) EXECUTE FUNCTION forget_shared_vectors();

-- The timestamp of a rebuild is raised in the same transaction, by an older server after this row is deleted.
CREATE CONSTRAINT TRIGGER forget_shared_vectors
    AFTER DELETE ON index_rebuilds DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION forget_shared_vectors();

-- The vectors of another collection were copied there, and recent_vectors has those of the one before.
CREATE OR REPLACE FUNCTION clear_last_writer() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    NEW.last_writer := NULL;
    NEW.unshared_timestamp := NEW.milvus_timestamp;
    RETURN NEW;
END
$$;
