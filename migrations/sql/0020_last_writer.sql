-- Which process wrote to a bot last: it need not wait until Milvus shows its own writes.
-- docs/decisions/0024-recent-vectors.md

ALTER TABLE bot_registry
    -- The lease token of the process that raised milvus_timestamp last; NULL if that is not known.
    ADD COLUMN last_writer uuid,
    -- No write of another process than last_writer has a newer timestamp than this.
    ADD COLUMN foreign_timestamp bigint NOT NULL DEFAULT 0;

-- Whether the write's process puts itself into last_writer. An older server, which does not, leaves it false.
ALTER TABLE sagas ADD COLUMN names_writer boolean NOT NULL DEFAULT false;

-- Pinned in the functions below: the search_path of a restore and of a subscription is empty.
DO
$$
BEGIN
    PERFORM set_config('search_path', format('%I, pg_temp', relnamespace::regnamespace::text), true)
    FROM pg_class WHERE oid = 'bot_registry'::regclass;
END
$$;

CREATE FUNCTION forget_last_writer() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    UPDATE bot_registry SET last_writer = NULL WHERE bot_id = OLD.bot_id AND last_writer IS NOT NULL;
    RETURN NULL;
END
$$;

-- An older server raises milvus_timestamp without a word about itself, or not at all where a newer one is there already.
-- With this trigger the transaction that makes its write visible makes the last writer unknown. At the commit, because
-- such a server raises the timestamp on another connection while that transaction waits for it.
CREATE CONSTRAINT TRIGGER forget_last_writer
    AFTER DELETE ON sagas DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.operation = 'write' AND NOT OLD.names_writer) EXECUTE FUNCTION forget_last_writer();

-- A rebuild writes vectors of documents that no search of the last writer holds.
CREATE TRIGGER forget_last_writer AFTER DELETE ON index_rebuilds FOR EACH ROW EXECUTE FUNCTION forget_last_writer();

CREATE FUNCTION clear_last_writer() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS
$$
BEGIN
    NEW.last_writer := NULL;
    RETURN NEW;
END
$$;

-- The vectors of another collection were copied there, by whichever process.
CREATE TRIGGER clear_last_writer BEFORE UPDATE ON bot_registry
    FOR EACH ROW WHEN (OLD.milvus_collection IS DISTINCT FROM NEW.milvus_collection)
    EXECUTE FUNCTION clear_last_writer();
