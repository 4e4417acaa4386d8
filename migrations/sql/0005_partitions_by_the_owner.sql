-- Partitions are made and dropped with the rights of the tables' owner and in their schema, whichever role inserts or
-- deletes a bot, and whatever its search_path is: that of a restore and of a subscription is empty.

-- Pinned in the functions below.
DO
$$
BEGIN
    PERFORM set_config('search_path', format('%I, pg_temp', relnamespace::regnamespace::text), true)
    FROM pg_class WHERE oid = 'bot_registry'::regclass;
END
$$;

-- LIKE and ATTACH instead of PARTITION OF: the latter locks every reader of the parent out.
CREATE OR REPLACE FUNCTION make_bot_partitions(bot uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS
$$
DECLARE
    home   text := pg_catalog.current_schema();
    parent text;
    child  text;
BEGIN
    IF NOT EXISTS (SELECT FROM bot_registry r WHERE r.bot_id = bot) THEN
        RAISE EXCEPTION 'bot % is not registered', bot USING ERRCODE = 'no_data_found';
    END IF;
    FOREACH parent IN ARRAY ARRAY ['documents', 'document_chunks'] LOOP
        child := bot_partition_name(parent, bot);
        -- There already: of a bot whose row was deleted by hand, or whose other partition was dropped by hand.
        CONTINUE WHEN pg_catalog.to_regclass(pg_catalog.format('%I.%I', home, child)) IS NOT NULL;
        EXECUTE pg_catalog.format('CREATE TABLE %1$I.%3$I (LIKE %1$I.%2$I INCLUDING ALL)', home, parent, child);
        EXECUTE pg_catalog.format(
            'ALTER TABLE %1$I.%2$I ATTACH PARTITION %1$I.%3$I FOR VALUES IN (%4$L)', home, parent, child, bot);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION create_bot_partitions() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS
$$
BEGIN
    PERFORM make_bot_partitions(NEW.bot_id);
    RETURN NULL;
END
$$;

-- In a subscription too, which applies rows as a replica.
ALTER TABLE bot_registry ENABLE ALWAYS TRIGGER create_bot_partitions;

-- Takes AccessExclusive on the parents: callers set a short lock_timeout and try again.
CREATE OR REPLACE FUNCTION drop_bot_partitions(bot uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS
$$
DECLARE
    parent text;
BEGIN
    IF EXISTS (SELECT FROM bot_registry r WHERE r.bot_id = bot AND r.state <> 'deleting') THEN
        RAISE EXCEPTION 'bot % is not being deleted', bot USING ERRCODE = 'object_in_use';
    END IF;
    FOREACH parent IN ARRAY ARRAY ['documents', 'document_chunks'] LOOP
        EXECUTE pg_catalog.format(
            'DROP TABLE IF EXISTS %I.%I', pg_catalog.current_schema(), bot_partition_name(parent, bot));
    END LOOP;
END
$$;

REVOKE EXECUTE ON FUNCTION make_bot_partitions(uuid), create_bot_partitions(), drop_bot_partitions(uuid) FROM PUBLIC;
