BEGIN;

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, 
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 0001

-- The record: which bots there are, their documents and chunks, and what is in flight between the two stores.

-- Numbers every write of a document's chunks, never used again. A new document's first generation is its doc_id.
CREATE SEQUENCE generation_seq AS bigint;

CREATE TABLE bot_registry (
    bot_id           uuid PRIMARY KEY,
    bot_name         text NOT NULL CHECK (bot_name <> ''),
    collection_name  text NOT NULL UNIQUE CHECK (collection_name ~ '^[A-Za-z_][A-Za-z0-9_]{0,254}$'),
    account_name     text NOT NULL DEFAULT 'chatty' CHECK (account_name <> ''),
    -- NULL until the server has made the collection, at the bot's creation or its first use.
    embedding_model  text,
    dimension        integer CHECK (dimension > 0),
    -- Timestamp of the newest write to the collection: what a search must see. 0 where Milvus needs none.
    milvus_timestamp bigint NOT NULL DEFAULT 0,
    state            text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'deleting')),
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- The collection in Milvus since the bot was embedded anew; until then it has the name collection_name.
    milvus_collection text UNIQUE,
    -- Of a move to another model that is under way: the collection that is being filled.
    next_collection  text UNIQUE,
    next_model       text,
    next_dimension   integer CHECK (next_dimension > 0),
    CHECK ((embedding_model IS NULL) = (dimension IS NULL)),
    CHECK ((next_collection IS NULL) = (next_model IS NULL) AND (next_collection IS NULL) = (next_dimension IS NULL))
);

CREATE INDEX bot_registry_account ON bot_registry (account_name, bot_id);

-- The collections that a bot's current vectors may lie in: its own, and the one that is being filled.
CREATE VIEW bot_collections (bot_id, collection_name, dimension, is_next) AS
SELECT bot_id, coalesce(milvus_collection, collection_name), dimension, false FROM bot_registry
UNION ALL
SELECT bot_id, next_collection, next_dimension, true FROM bot_registry WHERE next_collection IS NOT NULL;

-- No foreign key to bot_registry: together with the trigger it deadlocks concurrent registrations.
-- No default partition: attaching a partition would lock and scan it.
CREATE TABLE documents (
    bot_id      uuid NOT NULL,
    doc_id      bigint NOT NULL,
    -- The version that readers see. A chunk is visible when its own generation is this one.
    generation  bigint NOT NULL,
    title       text NOT NULL,
    file_path   text,
    file_type   text,
    author      text,
    tags        text[] NOT NULL DEFAULT '{}',
    metadata    jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    chunk_count integer NOT NULL CHECK (chunk_count > 0),
    -- One more than the largest chunk_index: the keys lie in [generation * 65536, generation * 65536 + chunk_span).
    chunk_span  integer NOT NULL CHECK (chunk_span BETWEEN 1 AND 65536),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bot_id, doc_id)
) PARTITION BY LIST (bot_id);

CREATE INDEX documents_metadata ON documents USING gin (metadata jsonb_path_ops);
CREATE INDEX documents_tags ON documents USING gin (tags);
CREATE INDEX documents_created_at ON documents (created_at);

CREATE TABLE document_chunks (
    bot_id      uuid NOT NULL,
    -- generation * 65536 + chunk_index; the key in Milvus too.
    chunk_id    bigint NOT NULL,
    doc_id      bigint NOT NULL,
    chunk_index integer NOT NULL CHECK (chunk_index BETWEEN 0 AND 65535),
    text        text NOT NULL,
    page_number integer,
    PRIMARY KEY (bot_id, chunk_id),
    CHECK (chunk_id & 65535 = chunk_index)
) PARTITION BY LIST (bot_id);

CREATE INDEX document_chunks_doc_id ON document_chunks (bot_id, doc_id);

-- What is in flight between the stores: a row for each operation while it lasts, none when all is quiet.
CREATE TABLE sagas (
    generation          bigint PRIMARY KEY,
    operation           text NOT NULL CHECK (operation IN ('write', 'create_bot', 'delete_bot', 'drop_collection')),
    bot_id              uuid NOT NULL,
    doc_id              bigint,
    previous_generation bigint,
    chunk_span          integer,
    -- In Milvus: where a write's vectors go, or what is to be dropped.
    collection_name     text,
    lease_token         uuid NOT NULL,
    lease_until         timestamptz NOT NULL,
    started_at          timestamptz NOT NULL DEFAULT now(),
    CHECK (operation <> 'write' OR (doc_id IS NOT NULL AND chunk_span IS NOT NULL)),
    CHECK (operation NOT IN ('write', 'drop_collection') OR collection_name IS NOT NULL)
);

CREATE INDEX sagas_bot_id ON sagas (bot_id);

-- Requests that came with an Idempotency-Key, and what they were answered.
CREATE TABLE idempotency_keys (
    account_name text NOT NULL,
    key          text NOT NULL,
    body_sha256  bytea NOT NULL,
    -- The saga that stands for the request while it is at work; without a response and without it, nothing happened.
    generation   bigint,
    response     bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_name, key)
);

CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

-- Who may call. What a key is stands nowhere: its hash is compared.
CREATE TABLE api_keys (
    prefix       text PRIMARY KEY CHECK (prefix ~ '^cm_[a-z0-9]{8}$'),
    sha256       bytea NOT NULL CHECK (length(sha256) = 32),
    account_name text NOT NULL CHECK (account_name <> ''),
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY ['read', 'write', 'admin']),
    note         text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz
);

-- Generations whose vectors are to be removed from Milvus.
CREATE TABLE vector_gc (
    generation      bigint NOT NULL,
    bot_id          uuid NOT NULL,
    -- In Milvus. Its bot may be gone, and another have a collection of that name by now.
    collection_name text NOT NULL,
    chunk_span      integer NOT NULL,
    -- Until then a write of this generation may still land, so that deleting must be repeated afterwards.
    not_before      timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    attempts        integer NOT NULL DEFAULT 0,
    PRIMARY KEY (generation, collection_name)
);

CREATE INDEX vector_gc_next_attempt_at ON vector_gc (next_attempt_at);
CREATE INDEX vector_gc_bot_id ON vector_gc (bot_id);

CREATE FUNCTION bot_partition_name(parent text, bot uuid) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    RETURN parent || '_' || replace(bot::text, '-', '');

-- LIKE and ATTACH instead of PARTITION OF: the latter locks every reader of the parent out.
CREATE FUNCTION make_bot_partitions(bot uuid) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    parent text;
    child  text;
BEGIN
    FOREACH parent IN ARRAY ARRAY ['documents', 'document_chunks'] LOOP
        child := bot_partition_name(parent, bot);
        -- There already: of a bot whose row was deleted by hand, or whose other partition was dropped by hand.
        CONTINUE WHEN to_regclass(format('%I', child)) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%L)', parent, child, bot);
    END LOOP;
END
$$;

CREATE FUNCTION create_bot_partitions() RETURNS trigger
    LANGUAGE plpgsql AS
$$
BEGIN
    PERFORM make_bot_partitions(NEW.bot_id);
    RETURN NULL;
END
$$;

CREATE TRIGGER create_bot_partitions
    AFTER INSERT ON bot_registry
    FOR EACH ROW EXECUTE FUNCTION create_bot_partitions();

-- Takes AccessExclusive on the parents: callers set a short lock_timeout and try again.
CREATE FUNCTION drop_bot_partitions(bot uuid) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY ['documents', 'document_chunks'] LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', bot_partition_name(parent, bot));
    END LOOP;
END
$$;


INSERT INTO alembic_version (version_num) VALUES ('0001') RETURNING alembic_version.version_num;

-- Running upgrade 0001 -> 0002

-- What is compared is in NFC (https://unicode.org/reports/tr15/). Names are few, and rewritten here; documents that were
-- stored before are read through the functions below until `python -m app.cli normalize` has rewritten a bot's.

-- Whether every document of the bot is in NFC. An older server that still runs leaves it false for the bots it makes.
ALTER TABLE bot_registry ADD COLUMN unicode_normalized boolean NOT NULL DEFAULT false;

UPDATE bot_registry SET account_name = normalize(account_name, NFC), bot_name = normalize(bot_name, NFC)
WHERE account_name IS NOT NFC NORMALIZED OR bot_name IS NOT NFC NORMALIZED;

UPDATE api_keys SET account_name = normalize(account_name, NFC) WHERE account_name IS NOT NFC NORMALIZED;

-- A key that both forms of the account have used stays with each.
UPDATE idempotency_keys k SET account_name = normalize(account_name, NFC)
WHERE account_name IS NOT NFC NORMALIZED
  AND NOT EXISTS (SELECT FROM idempotency_keys o
                  WHERE o.key = k.key AND o.account_name <> k.account_name
                    AND normalize(o.account_name, NFC) = normalize(k.account_name, NFC));

CREATE FUNCTION nfc_array(value text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE
        WHEN array_to_string(value, E'\n') IS NFC NORMALIZED THEN value
        ELSE ARRAY(SELECT normalize(u.item, NFC) FROM unnest(value) WITH ORDINALITY AS u (item, place) ORDER BY u.place)
    END;

-- Of two keys that become one, one stays. A mark of its own string must not join the last letter of an escape such as
-- \n before it: a control character, which stands in no jsonb's text, keeps the two apart.
CREATE FUNCTION nfc_jsonb(value jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE
        WHEN value::text IS NFC NORMALIZED THEN value
        ELSE replace(normalize(regexp_replace(value::text, '\\(u[0-9a-f]{4}|.)', E'\\&\x01', 'g'), NFC),
                     E'\x01', '')::jsonb
    END;


UPDATE alembic_version SET version_num='0002' WHERE alembic_version.version_num = '0001';

-- Running upgrade 0002 -> 0003

-- Whose vectors they were: a search that comes upon one asks for the document's current chunks.
-- NULL in rows of an older server.
ALTER TABLE vector_gc ADD COLUMN doc_id bigint;


UPDATE alembic_version SET version_num='0003' WHERE alembic_version.version_num = '0002';

-- Running upgrade 0003 -> 0004

-- Which process moves a bot to another model. A row, and not a lock of a session: behind a pooler there is no session.
CREATE TABLE reembed_leases (
    bot_id      uuid PRIMARY KEY,
    lease_token uuid NOT NULL,
    -- Renewed while the process lives; afterwards another may take over.
    lease_until timestamptz NOT NULL
);


UPDATE alembic_version SET version_num='0004' WHERE alembic_version.version_num = '0003';

-- Running upgrade 0004 -> 0005

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


UPDATE alembic_version SET version_num='0005' WHERE alembic_version.version_num = '0004';

-- Running upgrade 0005 -> 0006

-- The time that a text names in ISO 8601, in UTC, or NULL where it names none; never an error. A date is its first
-- moment, and a time without a zone is UTC. Digits of a second past the sixth are cut.
-- The expression only tells whether: to have it give its groups takes PostgreSQL 200 times as long.
CREATE FUNCTION iso_time(value text) RETURNS timestamp
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog
AS
$$
DECLARE
    year     int;
    month    int;
    day      int;
    hour     int := 0;
    minute   int := 0;
    second   int := 0;
    fraction text := '';
    zone     int := 0;
    rest     text;
BEGIN
    IF value !~ ('^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?'
                 '([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)?)?$') THEN
        RETURN NULL;
    END IF;
    year := substr(value, 1, 4);
    month := substr(value, 6, 2);
    day := substr(value, 9, 2);
    IF year < 1 OR month NOT BETWEEN 1 AND 12 OR day < 1 OR day > (CASE
        WHEN month IN (4, 6, 9, 11) THEN 30
        WHEN month <> 2 THEN 31
        WHEN year % 4 = 0 AND (year % 100 <> 0 OR year % 400 = 0) THEN 29
        ELSE 28
    END) THEN
        RETURN NULL;
    END IF;
    IF length(value) > 10 THEN
        hour := substr(value, 12, 2);
        minute := substr(value, 15, 2);
        rest := substr(value, 17);
        IF left(rest, 1) = ':' THEN
            second := substr(rest, 2, 2);
            fraction := substr(rest, 5, greatest(length(rest) - length(ltrim(rest, ':.,0123456789')) - 4, 0));
            rest := ltrim(rest, ':.,0123456789');
        END IF;
        IF left(rest, 1) IN ('+', '-') THEN
            IF substr(rest, 2, 2) > '23' OR length(rest) > 3 AND right(rest, 2) > '59' THEN
                RETURN NULL;
            END IF;
            zone := substr(rest, 2, 2)::int * 60 + CASE WHEN length(rest) > 3 THEN right(rest, 2)::int ELSE 0 END;
            zone := CASE WHEN left(rest, 1) = '-' THEN -zone ELSE zone END;
        END IF;
    END IF;
    IF hour > 23 OR minute > 59 OR second > 59 THEN
        RETURN NULL;
    END IF;
    RETURN make_timestamp(year, month, day, hour, minute, second)
        + make_interval(mins => -zone)
        + interval '1 microsecond' * rpad(left(fraction, 6), 6, '0')::int;
END
$$;


UPDATE alembic_version SET version_num='0006' WHERE alembic_version.version_num = '0005';

-- Running upgrade 0006 -> 0007

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


UPDATE alembic_version SET version_num='0007' WHERE alembic_version.version_num = '0006';

-- Running upgrade 0007 -> 0008

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


UPDATE alembic_version SET version_num='0008' WHERE alembic_version.version_num = '0007';

-- Running upgrade 0008 -> 0009

-- Generations that this database may have lost by a restore, from the one and below the other: rows that Milvus has of
-- them are nobody's, and a count of rows takes them for those that a restore brought back without vectors. NULL: none.
ALTER TABLE index_checks ADD COLUMN lost_from bigint, ADD COLUMN lost_below bigint;


UPDATE alembic_version SET version_num='0009' WHERE alembic_version.version_num = '0008';

-- Running upgrade 0009 -> 0012

-- How the words of a bot's collection are made: the version of the analyzer, and whether the title of its document is in
-- the lexical field of each chunk. They change only together with the collection. The defaults are for bots of earlier
-- servers, and for those that an earlier server makes while it still runs.
ALTER TABLE bot_registry
    ADD COLUMN analyzer_version smallint NOT NULL DEFAULT 1,
    ADD COLUMN title_in_lexical boolean NOT NULL DEFAULT false,
    -- Those of next_collection. NULL: it was begun by an earlier server.
    ADD COLUMN next_analyzer_version smallint,
    ADD COLUMN next_title_in_lexical boolean;


UPDATE alembic_version SET version_num='0012' WHERE alembic_version.version_num = '0009';

-- Running upgrade 0012 -> 0014

-- What a search of the bot uses for options that it does not name. NULL: the server's default.
ALTER TABLE bot_registry
    ADD COLUMN default_mode text CHECK (default_mode IN ('dense', 'lexical', 'hybrid')),
    ADD COLUMN default_dense_weight double precision CHECK (default_dense_weight BETWEEN 0 AND 1);


UPDATE alembic_version SET version_num='0014' WHERE alembic_version.version_num = '0012';

-- Running upgrade 0014 -> 0015

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


UPDATE alembic_version SET version_num='0015' WHERE alembic_version.version_num = '0014';

-- Running upgrade 0015 -> 0019

-- The least confidence of results in searches of the bot that name none. NULL: results are not cut.
ALTER TABLE bot_registry
    ADD COLUMN default_min_confidence double precision CHECK (default_min_confidence BETWEEN 0 AND 1);


UPDATE alembic_version SET version_num='0019' WHERE alembic_version.version_num = '0015';

-- Running upgrade 0019 -> 0020

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


UPDATE alembic_version SET version_num='0020' WHERE alembic_version.version_num = '0019';

-- Running upgrade 0020 -> 0021

-- The name that a document's owner has for it, unique within its bot. Only documents and writes that have one are in
-- the indexes. A key of an index may have 2,704 bytes: an external_id has at most 512 characters, of 4 bytes at most.
ALTER TABLE documents ADD COLUMN external_id text;
CREATE UNIQUE INDEX documents_external_id ON documents (bot_id, external_id) WHERE external_id IS NOT NULL;

-- A write holds the external_id of its document until it has ended: no two write the same one at a time.
ALTER TABLE sagas ADD COLUMN external_id text;
CREATE UNIQUE INDEX sagas_external_id ON sagas (bot_id, external_id) WHERE external_id IS NOT NULL;


UPDATE alembic_version SET version_num='0021' WHERE alembic_version.version_num = '0020';

-- Running upgrade 0021 -> 0022

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


UPDATE alembic_version SET version_num='0022' WHERE alembic_version.version_num = '0021';

-- Running upgrade 0022 -> 0025

-- Work that a caller started and that goes on after the answer: verify, repair, rebuild, reembed, reindex, tune.
CREATE TABLE jobs (
    job_id           uuid PRIMARY KEY,
    kind             text NOT NULL,
    -- NULL: over all bots.
    bot_id           uuid REFERENCES bot_registry ON DELETE CASCADE,
    options          jsonb NOT NULL,
    state            text NOT NULL DEFAULT 'running'
                     CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    unit             text NOT NULL DEFAULT 'bots',
    done             bigint NOT NULL DEFAULT 0,
    total            bigint,
    result           jsonb,
    error            jsonb,
    cancel_requested boolean NOT NULL DEFAULT false,
    -- The process that works on it renews the lease. A running job whose lease is over has lost its process.
    lease_token      uuid NOT NULL,
    lease_until      timestamptz NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    ended_at         timestamptz
);

-- One of a kind at a time for each bot, and one over all bots.
CREATE UNIQUE INDEX jobs_running ON jobs (kind, coalesce(bot_id, '00000000-0000-0000-0000-000000000000'))
WHERE state = 'running';

CREATE INDEX jobs_bot ON jobs (bot_id);

-- A key without an account is an operator's.
ALTER TABLE api_keys
    ALTER COLUMN account_name DROP NOT NULL,
    DROP CONSTRAINT api_keys_scopes_check,
    ADD CONSTRAINT api_keys_scopes_check
        CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY ['read', 'write', 'admin', 'operator']),
    ADD CONSTRAINT api_keys_operator_check CHECK ((account_name IS NULL) = ('operator' = ANY (scopes)));


UPDATE alembic_version SET version_num='0025' WHERE alembic_version.version_num = '0022';

-- Running upgrade 0025 -> 0027

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


UPDATE alembic_version SET version_num='0027' WHERE alembic_version.version_num = '0025';

-- Running upgrade 0027 -> 0028

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


UPDATE alembic_version SET version_num='0028' WHERE alembic_version.version_num = '0027';

-- Running upgrade 0028 -> 0030

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


UPDATE alembic_version SET version_num='0030' WHERE alembic_version.version_num = '0028';

-- Running upgrade 0030 -> 0031

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


UPDATE alembic_version SET version_num='0031' WHERE alembic_version.version_num = '0030';

COMMIT;

