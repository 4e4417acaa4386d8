-- Every statement of the server. A block is a name and one statement; $n are asyncpg's parameters.
-- Each statement on a partitioned table names bot_id, so that one partition is planned and locked.
-- Rows for a caller include their owner: app.core.stores.postgres.tenant_guard compares it.
-- A generation's chunks are the keys [generation * 65536, (generation + 1) * 65536).
-- Each change of a row of documents makes its updated_at later, even if the clock was set back: ETags are made of it.

-- name: schema_revision
SELECT version_num AS revision FROM alembic_version;

-- name: session_setting
SELECT current_setting($1, true);

-- name: missing_role_settings
-- Statements that give this role those of the settings $1 that do not have the values $2. Times are in milliseconds.
SELECT format('ALTER ROLE %I IN DATABASE %I SET %I = %s', session_user, current_database(), w.name, w.value) AS statement
FROM unnest($1::text[], $2::text[]) AS w (name, value)
LEFT JOIN pg_settings s ON s.name = w.name
WHERE s.setting IS DISTINCT FROM w.value
ORDER BY w.name;

-- name: missing_rights
-- Rights that the statements of this file need and this role lacks, or that the owner of the functions here lacks.
SELECT format('%s on %s', r.name, t.name) AS missing
FROM (VALUES ('alembic_version', 'SELECT'),
             ('account_quotas', 'SELECT, INSERT, UPDATE, DELETE'),
             ('api_keys', 'SELECT, INSERT, UPDATE'),
             ('bot_collections', 'SELECT'),
             ('bot_registry', 'SELECT, INSERT, UPDATE, DELETE'),
             ('bot_usage', 'SELECT, INSERT, UPDATE, DELETE'),
             ('calibrations', 'SELECT, INSERT, UPDATE'),
             ('collection_loads', 'SELECT, INSERT, UPDATE, DELETE'),
             ('document_chunks', 'SELECT, INSERT, DELETE'),
             ('term_counts', 'SELECT, INSERT, UPDATE'),
             ('documents', 'SELECT, INSERT, UPDATE, DELETE'),
             ('generation_blocks', 'SELECT, INSERT'),
             ('idempotency_keys', 'SELECT, INSERT, UPDATE, DELETE'),
             ('index_checks', 'SELECT, INSERT, UPDATE'),
             ('index_rebuilds', 'SELECT, INSERT, UPDATE, DELETE'),
             ('installation', 'SELECT, INSERT, UPDATE'),
             ('jobs', 'SELECT, INSERT, UPDATE, DELETE'),
             ('recent_vectors', 'SELECT, INSERT, DELETE'),
             ('reembed_leases', 'SELECT, INSERT, UPDATE, DELETE'),
             ('sagas', 'SELECT, INSERT, UPDATE, DELETE'),
             ('stream_parts', 'SELECT, INSERT, UPDATE, DELETE'),
             ('stream_results', 'SELECT, INSERT'),
             ('sync_missing', 'SELECT, INSERT, DELETE'),
             ('sync_sessions', 'SELECT, INSERT, UPDATE, DELETE'),
             ('vector_gc', 'SELECT, INSERT, UPDATE, DELETE')) AS t (name, rights)
CROSS JOIN LATERAL string_to_table(t.rights, ', ') AS r (name)
WHERE NOT has_table_privilege(t.name, r.name)
UNION ALL
SELECT format('%s on sequence generation_seq', r.name) FROM unnest(ARRAY['SELECT', 'USAGE', 'UPDATE']) AS r (name)
WHERE NOT has_sequence_privilege('generation_seq', r.name)
UNION ALL
SELECT format('EXECUTE on function %s', f.name)
FROM unnest(ARRAY['bot_partition_name(text, uuid)', 'make_bot_partitions(uuid)', 'drop_bot_partitions(uuid)']) AS f (name)
WHERE NOT has_function_privilege(f.name, 'EXECUTE')
UNION ALL
SELECT format('CREATE on schema %s for role %s, which owns %s', p.pronamespace::regnamespace, p.proowner::regrole, p.proname)
FROM pg_proc p
WHERE p.oid = 'make_bot_partitions'::regproc AND NOT has_schema_privilege(p.proowner, p.pronamespace, 'CREATE')
UNION ALL
SELECT format('ownership of %s for role %s, which owns %s', c.relname, p.proowner::regrole, p.proname)
FROM pg_proc p, pg_class c
WHERE p.oid IN ('make_bot_partitions'::regproc, 'drop_bot_partitions'::regproc)
  AND c.oid IN ('documents'::regclass, 'document_chunks'::regclass)
  AND NOT pg_has_role(p.proowner, c.relowner, 'USAGE');

-- ---------------------------------------------------------------- bots

-- name: insert_bot
INSERT INTO bot_registry (bot_id, bot_name, collection_name, account_name, analyzer_version, title_in_lexical,
                          default_mode, default_dense_weight, default_min_confidence, pinned)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
-- Without a conflict target: of two equal registrations at a time, either unique index may report the conflict.
ON CONFLICT DO NOTHING
RETURNING bot_id;

-- name: get_bot
SELECT bot_id, bot_name, collection_name, account_name, embedding_model, dimension, milvus_timestamp,
       last_writer, foreign_timestamp, created_at,
       bot_partition_name('documents', bot_id) AS partition_name,
       coalesce(milvus_collection, collection_name) AS milvus_collection, unicode_normalized,
       analyzer_version, title_in_lexical, coalesce(next_title_in_lexical, false) AS next_title_in_lexical,
       statistics_version, default_mode, default_dense_weight,
       default_min_confidence, pinned, chunks_done, chunks_total,
       ARRAY(SELECT generation FROM sagas WHERE bot_id = $1 AND operation = 'write' AND doc_id = generation)
           AS in_flight_generations
FROM bot_registry LEFT JOIN index_rebuilds USING (bot_id)
WHERE bot_id = $1 AND state = 'active' AND ($2::text IS NULL OR account_name = $2);

-- name: get_bots
SELECT bot_id, bot_name, collection_name, account_name, embedding_model, dimension, milvus_timestamp,
       last_writer, foreign_timestamp, created_at,
       bot_partition_name('documents', bot_id) AS partition_name,
       coalesce(milvus_collection, collection_name) AS milvus_collection, unicode_normalized,
       analyzer_version, title_in_lexical, coalesce(next_title_in_lexical, false) AS next_title_in_lexical,
       statistics_version, default_mode, default_dense_weight,
       default_min_confidence, pinned, chunks_done, chunks_total
FROM bot_registry LEFT JOIN index_rebuilds USING (bot_id)
WHERE bot_id = ANY ($1::uuid[]) AND state = 'active' AND ($2::text IS NULL OR account_name = $2);

-- name: list_bots
SELECT bot_id, bot_name, collection_name, account_name, embedding_model, dimension, milvus_timestamp,
       last_writer, foreign_timestamp, created_at,
       bot_partition_name('documents', bot_id) AS partition_name,
       coalesce(milvus_collection, collection_name) AS milvus_collection, unicode_normalized,
       analyzer_version, title_in_lexical, coalesce(next_title_in_lexical, false) AS next_title_in_lexical,
       statistics_version, default_mode, default_dense_weight,
       default_min_confidence, pinned, chunks_done, chunks_total
FROM bot_registry LEFT JOIN index_rebuilds USING (bot_id)
WHERE state = 'active' AND ($1::text IS NULL OR account_name = $1)
  AND ($2::timestamptz IS NULL OR (created_at, bot_id) > ($2, $3::uuid))
ORDER BY created_at, bot_id
LIMIT $4;

-- name: count_bots
SELECT account_name, count(*) AS bots FROM bot_registry
WHERE state = 'active' AND ($1::text IS NULL OR account_name = $1)
GROUP BY account_name;

-- name: find_bot
SELECT bot_id, account_name FROM bot_registry
WHERE collection_name = $1 AND state = 'active' AND ($2::text IS NULL OR account_name = $2);

-- name: update_bot
-- $3: new values by column. The others stay.
UPDATE bot_registry
SET bot_name = coalesce($3::jsonb ->> 'bot_name', bot_name),
    default_mode = CASE WHEN $3 ? 'default_mode' THEN $3 ->> 'default_mode' ELSE default_mode END,
    default_dense_weight = CASE WHEN $3 ? 'default_dense_weight' THEN ($3 ->> 'default_dense_weight')::float8
                                ELSE default_dense_weight END,
    default_min_confidence = CASE WHEN $3 ? 'default_min_confidence' THEN ($3 ->> 'default_min_confidence')::float8
                                  ELSE default_min_confidence END,
    pinned = coalesce(($3 ->> 'pinned')::boolean, pinned)
WHERE bot_id = $1 AND state = 'active' AND ($2::text IS NULL OR account_name = $2)
RETURNING bot_id, account_name;

-- name: bot_state
SELECT state, coalesce(milvus_collection, collection_name) AS milvus_collection, dimension
FROM bot_registry WHERE bot_id = $1;

-- name: collections_of_bot
-- All collections of the bot in Milvus. $2: the dimension, if the bot has none yet.
SELECT collection_name, coalesce(dimension, $2) AS dimension FROM bot_collections WHERE bot_id = $1
UNION ALL
-- A slow first creation may have made it although the bot got another one.
SELECT collection_name, coalesce(dimension, $2) FROM bot_registry
WHERE bot_id = $1 AND collection_name <> milvus_collection
UNION ALL
SELECT collection_name, NULL FROM sagas WHERE bot_id = $1 AND operation = 'drop_collection';

-- name: bot_counts
SELECT (SELECT count(*) FROM documents WHERE bot_id = $1)                          AS documents,
       (SELECT coalesce(sum(chunk_count), 0) FROM documents WHERE bot_id = $1)::bigint AS chunks,
       (SELECT count(*) FROM sagas WHERE bot_id = $1)                              AS sagas,
       (SELECT count(*) FROM vector_gc WHERE bot_id = $1)                          AS vector_gc;

-- name: lock_bot_for_use
-- Until the commit these locks block a deletion of the bot and a change of its collection, and no other write. If
-- it had to wait, it returns the row as it is then. Row locks have no queue: a transaction that can share one
-- overtakes a deletion that waits, which could then wait forever under a steady load. The advisory lock has a
-- queue. It is taken first: a volatile function in a select list is called after the sort and before the row is
-- locked.
SELECT bot_id, created_at, coalesce(milvus_collection, collection_name) AS milvus_collection, account_name, is_counted,
       pg_advisory_xact_lock_shared(hashtextextended('bot ' || bot_id, 0)) AS turn
FROM bot_registry
WHERE bot_id = ANY ($1::uuid[]) AND state = 'active'
ORDER BY bot_id
FOR KEY SHARE;

-- name: lock_bot_for_deletion
SELECT bot_id, account_name, pg_advisory_xact_lock(hashtextextended('bot ' || bot_id, 0)) AS turn FROM bot_registry
WHERE bot_id = $1 AND state = 'active' AND ($2::text IS NULL OR account_name = $2)
FOR UPDATE;

-- name: mark_bot_deleting
UPDATE bot_registry SET state = 'deleting' WHERE bot_id = $1;

-- name: set_bot_model
-- Before the bot's first write. Everything that this server stores is in NFC.
UPDATE bot_registry SET embedding_model = $2, dimension = $3,
    unicode_normalized = unicode_normalized OR NOT EXISTS (SELECT FROM documents WHERE bot_id = $1)
WHERE bot_id = $1 AND embedding_model IS NULL;

-- name: lock_bots_for_timestamps
SELECT bot_id FROM bot_registry WHERE bot_id = ANY ($1::uuid[]) ORDER BY bot_id FOR NO KEY UPDATE;

-- name: advance_milvus_timestamps
-- $3: the writer. Where another one was last, what he and others have raised is foreign to this one; that is noted even
-- if this write has the older timestamp. The vectors of these writes are not in recent_vectors.
UPDATE bot_registry r
SET foreign_timestamp = CASE WHEN r.last_writer = $3::uuid THEN r.foreign_timestamp ELSE r.milvus_timestamp END,
    last_writer = $3, milvus_timestamp = greatest(r.milvus_timestamp, w.milvus_timestamp),
    unshared_timestamp = greatest(r.unshared_timestamp, w.milvus_timestamp)
FROM unnest($1::uuid[], $2::bigint[]) AS w (bot_id, milvus_timestamp)
WHERE r.bot_id = w.bot_id AND (r.unshared_timestamp < w.milvus_timestamp OR r.last_writer IS DISTINCT FROM $3);

-- name: advance_milvus_timestamp
-- For one bot, in one statement that does not wait for the disk: set_config lasts until its commit.
UPDATE bot_registry
SET foreign_timestamp = CASE WHEN last_writer = $3::uuid THEN foreign_timestamp ELSE milvus_timestamp END,
    last_writer = $3, milvus_timestamp = greatest(milvus_timestamp, $2),
    unshared_timestamp = greatest(unshared_timestamp, $2)
WHERE bot_id = $1 AND (unshared_timestamp < $2 OR last_writer IS DISTINCT FROM $3)
  AND set_config('synchronous_commit', 'off', true) IS NOT NULL;

-- name: advance_milvus_timestamp_and_share
-- The same for a small write, whose vectors go to recent_vectors: keys $5, documents $6, vectors $7. Not if the bot has
-- another collection than $4 by now, or is being deleted. A write with an older timestamp adds its vectors too.
WITH raised AS (
    UPDATE bot_registry
    SET foreign_timestamp = CASE WHEN last_writer = $3::uuid THEN foreign_timestamp ELSE milvus_timestamp END,
        last_writer = $3, milvus_timestamp = greatest(milvus_timestamp, $2),
        unshared_timestamp = CASE
            WHEN state = 'active' AND coalesce(milvus_collection, collection_name) = $4::text THEN unshared_timestamp
            ELSE greatest(unshared_timestamp, $2)
        END
    WHERE bot_id = $1 AND set_config('synchronous_commit', 'off', true) IS NOT NULL
    RETURNING state = 'active' AND coalesce(milvus_collection, collection_name) = $4 AS is_shared
)
INSERT INTO recent_vectors (bot_id, milvus_timestamp, chunk_id, doc_id, embedding)
SELECT $1, $2, v.chunk_id, v.doc_id, v.embedding
FROM raised, unnest($5::bigint[], $6::bigint[], $7::bytea[]) AS v (chunk_id, doc_id, embedding)
WHERE raised.is_shared;

-- name: sweep_recent_vectors
-- What is taken out of recent_vectors raises unshared_timestamp. Bots that are being written to at this moment are left
-- for the next time. An older server deletes bots without their rows here. The locks are not held until the disk is done.
WITH bots AS MATERIALIZED (
    SELECT bot_id FROM bot_registry
    WHERE bot_id IN (SELECT bot_id FROM recent_vectors WHERE written_at < now() - $1::interval)
      AND set_config('synchronous_commit', 'off', true) IS NOT NULL
    FOR NO KEY UPDATE SKIP LOCKED
), swept AS (
    DELETE FROM recent_vectors r
    WHERE r.written_at < now() - $1
      AND (r.bot_id IN (SELECT bot_id FROM bots) OR NOT EXISTS (SELECT FROM bot_registry b WHERE b.bot_id = r.bot_id))
    RETURNING r.bot_id, r.milvus_timestamp
)
UPDATE bot_registry b SET unshared_timestamp = greatest(b.unshared_timestamp, s.newest)
FROM (SELECT bot_id, max(milvus_timestamp) AS newest FROM swept GROUP BY bot_id) AS s
WHERE b.bot_id = s.bot_id;

-- name: raise_milvus_timestamp
-- By a rebuild, whose end makes the last writer unknown (migration 0020).
UPDATE bot_registry SET milvus_timestamp = greatest(milvus_timestamp, $2) WHERE bot_id = $1;

-- name: creation_in_flight
SELECT EXISTS (SELECT FROM sagas WHERE bot_id = $1 AND operation = 'create_bot'
               AND ($2::bigint IS NULL OR generation < $2));

-- name: drop_partitions
SELECT drop_bot_partitions($1);

-- name: delete_bot_row
-- Nothing was added to recent_vectors since the bot is being deleted.
WITH deleted AS (DELETE FROM bot_registry WHERE bot_id = $1 AND state = 'deleting' RETURNING bot_id)
DELETE FROM recent_vectors WHERE bot_id IN (SELECT bot_id FROM deleted);

-- name: enqueue_bot_gc
-- Before partitions and row are deleted. Late writes to the dropped collection could appear in a new collection of
-- the same name. So their generations are collected by that name until the late-write window has passed.
WITH undone AS (
    DELETE FROM sagas WHERE bot_id = $1 RETURNING generation, operation, chunk_span, collection_name
), unmoved AS (
    DELETE FROM reembed_leases WHERE bot_id = $1
), collections AS (
    SELECT collection_name FROM bot_collections WHERE bot_id = $1
    UNION
    SELECT collection_name FROM undone WHERE operation = 'drop_collection'
), late AS (
    SELECT generation, collection_name, chunk_span, now() + $2::interval AS until FROM undone
    WHERE operation = 'write'
    UNION ALL
    SELECT d.generation, c.collection_name, d.chunk_span, d.updated_at + $2::interval FROM documents d, collections c
    WHERE d.bot_id = $1 AND d.updated_at + $2::interval > now()
)
INSERT INTO vector_gc (generation, bot_id, collection_name, chunk_span, not_before)
SELECT generation, $1, collection_name, chunk_span, until FROM late
ON CONFLICT (generation, collection_name) DO UPDATE SET not_before = greatest(vector_gc.not_before, excluded.not_before);

-- ---------------------------------------------------------------- sagas

-- name: begin_bot_saga
INSERT INTO sagas (generation, operation, bot_id, lease_token, lease_until)
VALUES (nextval('generation_seq'), $1, $2, $3, now() + $4::interval)
RETURNING generation;

-- name: begin_writes
-- The generations, which ascend in the order of the writes. A new document takes its generation as its doc_id.
-- There are fewer rows than writes if the block of generations is used up, or was not reserved by this database as
-- it is now.
INSERT INTO sagas (generation, operation, bot_id, doc_id, previous_generation, chunk_span, collection_name,
                   lease_token, lease_until, names_writer, shares_vectors)
SELECT w.generation, 'write', w.bot_id, coalesce(w.doc_id, w.generation), w.previous_generation, w.chunk_span,
       w.collection_name, $6, now() + $7::interval, true, true
FROM (SELECT nextval('generation_seq') AS generation, * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[],
                                                                    $4::integer[], $5::text[])
          AS u (bot_id, doc_id, previous_generation, chunk_span, collection_name) OFFSET 0) AS w
WHERE w.generation BETWEEN (
          SELECT first_generation FROM installation
          WHERE xmin = written_by::xid AND postmaster_start = pg_postmaster_start_time()
            AND database_name = current_database())
      AND (SELECT last_generation FROM installation)
RETURNING generation;

-- name: begin_writes_with_external_ids
-- As begin_writes, where some of the documents have an external_id. A write whose external_id another saga holds gets
-- no row. All insert in one order, so that they wait for each other and do not deadlock.
INSERT INTO sagas (generation, operation, bot_id, doc_id, previous_generation, chunk_span, collection_name,
                   lease_token, lease_until, names_writer, shares_vectors, external_id)
SELECT w.generation, 'write', w.bot_id, coalesce(w.doc_id, w.generation), w.previous_generation, w.chunk_span,
       w.collection_name, $6, now() + $7::interval, true, true, w.external_id
FROM (SELECT nextval('generation_seq') AS generation, * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[],
                                                                    $4::integer[], $5::text[], $8::text[])
          AS u (bot_id, doc_id, previous_generation, chunk_span, collection_name, external_id) OFFSET 0) AS w
WHERE w.generation BETWEEN (
          SELECT first_generation FROM installation
          WHERE xmin = written_by::xid AND postmaster_start = pg_postmaster_start_time()
            AND database_name = current_database())
      AND (SELECT last_generation FROM installation)
ORDER BY w.bot_id, w.external_id
ON CONFLICT (bot_id, external_id) WHERE external_id IS NOT NULL DO NOTHING
RETURNING generation, bot_id, external_id;

-- name: held_external_ids
SELECT external_id FROM sagas WHERE bot_id = $1 AND external_id = ANY ($2::text[]);

-- name: documents_by_external_id
-- OFFSET 0: as in current_chunks.
SELECT d.bot_id, d.external_id, d.doc_id, d.generation
FROM unnest($2::text[]) AS w (external_id)
CROSS JOIN LATERAL (
    SELECT * FROM documents d WHERE d.bot_id = $1 AND d.external_id = w.external_id OFFSET 0
) AS d;

-- name: renew_leases
-- A locked row is being ended, by T2 or by recovery. To wait for it would delay the others, and could deadlock.
UPDATE sagas SET lease_until = now() + $3::interval
WHERE generation IN (
    SELECT generation FROM sagas
    WHERE generation = ANY ($1::bigint[]) AND lease_token = $2
    FOR UPDATE SKIP LOCKED)
RETURNING generation;

-- name: lock_leases
SELECT generation FROM sagas
WHERE generation = ANY ($1::bigint[]) AND lease_token = $2
ORDER BY generation
FOR UPDATE;

-- name: end_sagas
-- now() is the updated_at of the documents that the transaction inserts.
DELETE FROM sagas WHERE generation = ANY ($1::bigint[]) AND lease_token = $2 RETURNING generation, now() AS ended_at;

-- name: compensate_writes
-- $3: the caller's lease token; NULL for recovery, which has locked the rows. $4: the late-write window.
WITH gone AS (
    DELETE FROM sagas
    WHERE bot_id = $1 AND generation = ANY ($2::bigint[]) AND ($3::uuid IS NULL OR lease_token = $3)
    RETURNING generation, doc_id, chunk_span, collection_name
), chunks AS (
    DELETE FROM document_chunks c USING gone
    WHERE c.bot_id = $1 AND c.chunk_id >= gone.generation * 65536 AND c.chunk_id < (gone.generation + 1) * 65536
), gc AS (
    INSERT INTO vector_gc (generation, bot_id, doc_id, collection_name, chunk_span, not_before)
    SELECT generation, $1, doc_id, collection_name, chunk_span, now() + $4::interval FROM gone
)
SELECT generation FROM gone;

-- name: enqueue_vector_gc
-- Generations that another process has undone or deleted, while this process may still have written their vectors.
-- These are deleted again; never those of a generation that a document names.
INSERT INTO vector_gc (generation, bot_id, collection_name, chunk_span, not_before)
SELECT w.generation, b.bot_id, w.collection_name, w.chunk_span, now() + $4::interval
FROM unnest($2::bigint[], $3::integer[], $5::text[]) AS w (generation, chunk_span, collection_name),
     (SELECT bot_id FROM bot_registry WHERE bot_id = $1 AND state = 'active' FOR KEY SHARE) AS b
WHERE NOT EXISTS (SELECT FROM documents d WHERE d.bot_id = $1 AND d.generation = w.generation)
ON CONFLICT (generation, collection_name) DO UPDATE SET not_before = greatest(vector_gc.not_before, excluded.not_before);

-- name: expired_writes
SELECT generation, bot_id FROM sagas
WHERE operation = 'write' AND lease_until < now()
ORDER BY bot_id, generation
LIMIT 500
FOR UPDATE SKIP LOCKED;

-- name: claim_expired_bot_saga
-- The one whose lease expired first: sagas that wait for another one, and fail, come after it. A renewal gives all leases
-- of a process the same end: then creations, for which the others wait, come first.
UPDATE sagas SET lease_token = $1, lease_until = now() + $2::interval
WHERE generation = (
    SELECT generation FROM sagas
    WHERE operation <> 'write' AND lease_until < now()
    ORDER BY lease_until, operation <> 'create_bot', generation
    LIMIT 1
    FOR UPDATE SKIP LOCKED)
RETURNING generation, operation, bot_id, collection_name;

-- ---------------------------------------------------------------- generations

-- name: generation_state
-- usable: the row was written by this database under this postmaster, and not restored since.
SELECT i.installation_id, i.first_generation, i.last_generation,
       coalesce(i.xmin = i.written_by::xid AND i.postmaster_start = pg_postmaster_start_time()
                AND i.database_name = current_database(), false) AS usable,
       (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM generation_seq) AS newest_generation,
       current_database() || '/' || (SELECT relnamespace::regnamespace::text FROM pg_class
                                     WHERE oid = 'installation'::regclass) AS database
FROM installation i;

-- name: make_installation
INSERT INTO installation DEFAULT VALUES ON CONFLICT DO NOTHING;

-- name: system_identifier
SELECT system_identifier::text FROM pg_control_system();

-- name: generation_blocks
SELECT block_id, first_generation, last_generation FROM generation_blocks ORDER BY first_generation;

-- name: lock_installation
SELECT first_generation, last_generation,
       coalesce(xmin = written_by::xid AND postmaster_start = pg_postmaster_start_time()
                AND database_name = current_database(), false) AS usable
FROM installation
FOR UPDATE;

-- name: add_generation_blocks
INSERT INTO generation_blocks (block_id, first_generation, last_generation)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[])
ON CONFLICT DO NOTHING;

-- name: doubt_counts
-- Before the jump to generation $1: the generations up to there may have been given out before a restore.
INSERT INTO index_checks (bot_id, checked_at, lost_below)
SELECT b.bot_id, '-infinity', $1
FROM bot_registry b CROSS JOIN generation_seq s
WHERE b.embedding_model IS NOT NULL AND s.last_value < $1
ON CONFLICT (bot_id) DO UPDATE SET checked_at = '-infinity', lost_below = excluded.lost_below;

-- name: jump_to_generation
-- It never moves backwards.
SELECT setval('generation_seq', $1::bigint - 1) FROM generation_seq
WHERE last_value < $1 - 1 OR (last_value = $1 - 1 AND NOT is_called);

-- name: use_generation_block
-- Not in a subtransaction: written_by would not be the row's xmin.
UPDATE installation
SET first_generation = $1, last_generation = $2, installation_id = coalesce($3, installation_id),
    written_by = pg_current_xact_id(), postmaster_start = pg_postmaster_start_time(),
    database_name = current_database();

-- name: known_collections
SELECT collection_name FROM bot_collections
UNION
SELECT collection_name FROM sagas WHERE operation = 'drop_collection';

-- name: abandon_collections
-- Gives new collections, which are then filled from PostgreSQL, to the bots whose collection is in $3. Not to bots
-- whose generations are all in the ranges [$1, $2]: their vectors are known to be theirs.
UPDATE bot_registry b
SET milvus_collection = format('r%s_%s', nextval('generation_seq'), replace(gen_random_uuid()::text, '-', ''))
WHERE coalesce(b.milvus_collection, b.collection_name) = ANY ($3::text[])
  AND (cardinality($1::bigint[]) = 0 OR EXISTS (
        SELECT FROM documents d
        WHERE d.bot_id = b.bot_id
          AND NOT EXISTS (SELECT FROM unnest($1::bigint[], $2::bigint[]) AS r (first, last)
                          WHERE d.generation BETWEEN r.first AND r.last)))
RETURNING bot_id;

-- ---------------------------------------------------------------- idempotency keys

-- name: find_idempotent_answer
SELECT account_name, body_sha256, response FROM idempotency_keys WHERE account_name = $1 AND key = $2;

-- name: claim_idempotency_key
-- In both cases the row is locked, and its newest version returned.
INSERT INTO idempotency_keys AS k (account_name, key, body_sha256) VALUES ($1, $2, $3)
ON CONFLICT (account_name, key) DO UPDATE SET key = excluded.key
RETURNING k.account_name, k.body_sha256, k.generation, k.response;

-- name: saga_in_flight
-- A separate statement: one that began before the key's row was locked might not see the saga.
SELECT EXISTS (SELECT FROM sagas WHERE generation = $1);

-- name: assign_idempotency_key
UPDATE idempotency_keys SET generation = $3 WHERE account_name = $1 AND key = $2;

-- name: lock_idempotency_key
SELECT key FROM idempotency_keys
WHERE account_name = $1 AND key = $2 AND generation = $3 AND response IS NULL
FOR UPDATE;

-- name: store_idempotent_answer
UPDATE idempotency_keys SET response = $3 WHERE account_name = $1 AND key = $2;

-- name: sweep_idempotency_keys
DELETE FROM idempotency_keys k
WHERE k.created_at < now() - CASE WHEN starts_with(k.key, 'import ') THEN $2::interval ELSE $1::interval END
  AND NOT EXISTS (SELECT FROM sagas s WHERE s.generation = k.generation);

-- name: forget_idempotency_keys
DELETE FROM idempotency_keys WHERE account_name = $1 AND starts_with(key, $2) AND response IS NOT NULL;

-- ---------------------------------------------------------------- parts of streams

-- name: claim_part
-- In both cases the row is locked, and its newest version returned.
INSERT INTO stream_parts AS p (bot_id, stream_key, part) VALUES ($1, $2, $3)
ON CONFLICT (bot_id, stream_key, part) DO UPDATE SET updated_at = now()
RETURNING p.lines, p.generation;

-- name: assign_part
UPDATE stream_parts SET generation = $4 WHERE bot_id = $1 AND stream_key = $2 AND part = $3;

-- name: lock_part
SELECT part FROM stream_parts
WHERE bot_id = $1 AND stream_key = $2 AND part = $3 AND lines = $4 AND generation = $5
FOR UPDATE;

-- name: store_lines
WITH advanced AS (
    UPDATE stream_parts
    SET lines = $4, sha256 = $5, stored = stored + $6, failed = failed + $7, generation = NULL, updated_at = now()
    WHERE bot_id = $1 AND stream_key = $2 AND part = $3
    RETURNING bot_id, stream_key, part
)
INSERT INTO stream_results (bot_id, stream_key, part, last_line, failed, results)
SELECT bot_id, stream_key, part, $4, $7, $8 FROM advanced;

-- name: stream_part
SELECT p.bot_id, p.part, p.lines, p.sha256, p.stored, p.failed, p.updated_at,
       EXISTS (SELECT FROM sagas s WHERE s.generation = p.generation) AS in_flight
FROM stream_parts p WHERE p.bot_id = $1 AND p.stream_key = $2 AND p.part = $3;

-- name: stream_parts
SELECT p.bot_id, p.part, p.lines, p.sha256, p.stored, p.failed, p.updated_at,
       EXISTS (SELECT FROM sagas s WHERE s.generation = p.generation) AS in_flight
FROM stream_parts p WHERE p.bot_id = $1 AND p.stream_key = $2 AND p.part > $3
ORDER BY p.part LIMIT $4;

-- name: stream_totals
SELECT count(*) AS parts, coalesce(sum(lines), 0)::bigint AS lines, coalesce(sum(stored), 0)::bigint AS stored,
       coalesce(sum(failed), 0)::bigint AS failed
FROM stream_parts WHERE bot_id = $1 AND stream_key = $2;

-- name: stream_results
-- The rows with results after line $4 of part $3; each has those of one transaction.
SELECT bot_id, part, last_line, results FROM stream_results
WHERE bot_id = $1 AND stream_key = $2 AND (part, last_line) > ($3, $4) AND (failed > 0 OR NOT $5)
ORDER BY part, last_line LIMIT $6;

-- name: sweep_streams
-- A stream is deleted as a whole: with only some of its parts gone, a client that goes on would load these again.
DELETE FROM stream_parts p
WHERE p.updated_at < now() - $1::interval
  AND NOT EXISTS (SELECT FROM sagas s WHERE s.generation = p.generation)
  AND NOT EXISTS (
      SELECT FROM stream_parts q
      WHERE q.bot_id = p.bot_id AND q.stream_key = p.stream_key AND q.updated_at >= now() - $1::interval
  );

-- ---------------------------------------------------------------- API keys

-- name: insert_api_key
-- The second of two keys with the same prefix is not stored.
INSERT INTO api_keys (prefix, sha256, account_name, scopes, note, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval)
ON CONFLICT DO NOTHING
RETURNING expires_at;

-- name: find_api_key
-- Seconds by PostgreSQL's clock, so that the clocks of the servers do not matter. NULL: it does not expire.
SELECT sha256, account_name, scopes, extract(epoch FROM expires_at - now())::float8 AS seconds_left FROM api_keys
WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: any_api_key
SELECT EXISTS (SELECT FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()));

-- name: list_api_keys
SELECT prefix, account_name, scopes, note, created_at, expires_at, revoked_at,
       revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS usable
FROM api_keys
WHERE $1::text IS NULL OR account_name = $1
ORDER BY created_at, prefix;

-- name: all_api_keys
SELECT prefix, sha256, account_name, scopes, note, created_at, expires_at, revoked_at FROM api_keys
ORDER BY created_at, prefix;

-- name: restore_api_key
INSERT INTO api_keys (prefix, sha256, account_name, scopes, note, created_at, expires_at, revoked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING prefix;

-- name: revoke_api_key
UPDATE api_keys SET revoked_at = now() WHERE prefix = $1 AND revoked_at IS NULL RETURNING prefix;

-- ---------------------------------------------------------------- quotas

-- name: lock_account
-- Of an account whose quota is changed, until the commit. Registrations take it shared: those that do not see the new
-- quota have ended, and so their bots are seen.
SELECT pg_advisory_xact_lock(hashtextextended('quota ' || $1::text, 0));

-- name: lock_account_shared
SELECT pg_advisory_xact_lock_shared(hashtextextended('quota ' || $1::text, 0));

-- name: lock_quotas
-- Writes of these accounts wait for each other until the commit. The usage is read by the next statement, which sees what
-- those before have stored.
SELECT account_name, bots, documents, chunks FROM account_quotas WHERE account_name = ANY ($1::text[])
ORDER BY account_name
FOR UPDATE;

-- name: quotas
SELECT account_name, bots, documents, chunks FROM account_quotas WHERE account_name = ANY ($1::text[]);

-- name: usage_of_accounts
-- Of accounts with a quota: by the counters of their bots.
SELECT b.account_name, count(*) AS bots, coalesce(sum(u.documents), 0)::bigint AS documents,
       coalesce(sum(u.chunks), 0)::bigint AS chunks
FROM bot_registry b LEFT JOIN bot_usage u USING (bot_id)
WHERE b.account_name = ANY ($1::text[]) AND b.state = 'active'
GROUP BY b.account_name;

-- name: add_usage
UPDATE bot_usage SET documents = documents + $2, chunks = chunks + $3 WHERE bot_id = $1;

-- name: set_quota
INSERT INTO account_quotas (account_name, bots, documents, chunks) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_name) DO UPDATE
SET bots = excluded.bots, documents = excluded.documents, chunks = excluded.chunks;

-- name: remove_quota
DELETE FROM account_quotas WHERE account_name = $1;

-- name: account_of_bot
SELECT account_name FROM bot_registry WHERE bot_id = $1;

-- name: set_counted
UPDATE bot_registry SET is_counted = $2 WHERE bot_id = $1 AND is_counted <> $2;

-- name: count_usage
-- After lock_bot_exclusively, so that no transaction that has not ended changes the bot's documents.
INSERT INTO bot_usage (bot_id, documents, chunks)
SELECT $1, count(*), coalesce(sum(chunk_count), 0) FROM documents WHERE bot_id = $1
ON CONFLICT (bot_id) DO UPDATE SET documents = excluded.documents, chunks = excluded.chunks;

-- name: forget_usage
DELETE FROM bot_usage WHERE bot_id = $1;

-- name: usage_by_bot
SELECT b.account_name, b.bot_id, u.documents, u.chunks
FROM bot_registry b LEFT JOIN bot_usage u ON u.bot_id = b.bot_id AND b.is_counted
WHERE b.account_name = $1 AND b.state = 'active'
ORDER BY b.bot_id;

-- name: accounts
-- Those with bots or with a quota.
SELECT account_name FROM bot_registry WHERE state = 'active'
UNION
SELECT account_name FROM account_quotas
ORDER BY account_name;

-- ---------------------------------------------------------------- documents

-- name: current_generations
SELECT bot_id, doc_id, generation, chunk_count FROM documents WHERE bot_id = $1 AND doc_id = ANY ($2::bigint[]);

-- name: switch_document
-- Compare-and-set from generation $3 to $4. In the same statement the old generation's chunks are deleted and its
-- vectors enqueued. A collection that is being filled may get a copy of them at this moment.
WITH old AS (
    SELECT generation, chunk_count, chunk_span, updated_at FROM documents
    WHERE bot_id = $1 AND doc_id = $2 AND generation = $3
    FOR UPDATE
), switched AS (
    UPDATE documents d
    SET generation = $4, title = $5, file_path = $6, file_type = $7, author = $8, tags = $9::text[],
        metadata = $10::jsonb, chunk_count = $11, chunk_span = $12,
        updated_at = greatest(now(), d.updated_at + interval '1 microsecond')
    FROM old
    WHERE d.bot_id = $1 AND d.doc_id = $2
    RETURNING d.updated_at
), chunks AS (
    DELETE FROM document_chunks c USING old
    WHERE c.bot_id = $1 AND c.chunk_id >= $3 * 65536 AND c.chunk_id < ($3 + 1) * 65536
), gc AS (
    INSERT INTO vector_gc (generation, bot_id, doc_id, collection_name, chunk_span, not_before)
    SELECT o.generation, $1, $2, b.collection_name, o.chunk_span,
           greatest(now(), CASE WHEN b.is_next THEN now() ELSE o.updated_at END + $13::interval)
    FROM old o, bot_collections b WHERE b.bot_id = $1
)
SELECT o.chunk_count, o.updated_at AS replaced_at, s.updated_at FROM old o, switched s;

-- name: switch_generation
-- As switch_document, for a write of the chunks alone. The row's other columns stay, with any PATCH since; but the
-- words may have the title $8, so it must still be that.
WITH old AS (
    SELECT generation, chunk_count, chunk_span, updated_at FROM documents
    WHERE bot_id = $1 AND doc_id = $2 AND generation = $3 AND title = $8
    FOR UPDATE
), switched AS (
    UPDATE documents d
    SET generation = $4, chunk_count = $6, chunk_span = $7,
        updated_at = greatest(now(), d.updated_at + interval '1 microsecond')
    FROM old
    WHERE d.bot_id = $1 AND d.doc_id = $2
    RETURNING d.updated_at
), chunks AS (
    DELETE FROM document_chunks c USING old
    WHERE c.bot_id = $1 AND c.chunk_id >= $3 * 65536 AND c.chunk_id < ($3 + 1) * 65536
), gc AS (
    INSERT INTO vector_gc (generation, bot_id, doc_id, collection_name, chunk_span, not_before)
    SELECT o.generation, $1, $2, b.collection_name, o.chunk_span,
           greatest(now(), CASE WHEN b.is_next THEN now() ELSE o.updated_at END + $5::interval)
    FROM old o, bot_collections b WHERE b.bot_id = $1
)
SELECT o.chunk_count, o.updated_at AS replaced_at, s.updated_at FROM old o, switched s;

-- name: lock_documents
-- The bot is locked first, as in T2. A row that was changed while this waited for it must pass the filter as it is now.
WITH bot AS MATERIALIZED (SELECT bot_id FROM bot_registry WHERE bot_id = $1 FOR KEY SHARE)
SELECT d.bot_id, d.doc_id, d.generation, d.updated_at FROM documents d JOIN bot ON bot.bot_id = d.bot_id
WHERE d.bot_id = $1 AND d.doc_id = ANY ($2::bigint[]) AND (/*filter*/ true)
ORDER BY d.doc_id
FOR UPDATE OF d;

-- name: delete_documents
-- A separate statement after lock_documents: one that waited for the locks itself would not see the chunks that other
-- transactions stored meanwhile.
WITH gone AS (
    DELETE FROM documents
    WHERE bot_id = $1 AND doc_id = ANY ($2::bigint[])
    RETURNING bot_id, doc_id, generation, chunk_count, chunk_span, updated_at
), chunks AS (
    DELETE FROM document_chunks c USING gone
    WHERE c.bot_id = $1 AND c.chunk_id >= gone.generation * 65536 AND c.chunk_id < (gone.generation + 1) * 65536
), gc AS (
    INSERT INTO vector_gc (generation, bot_id, doc_id, collection_name, chunk_span, not_before)
    SELECT g.generation, $1, g.doc_id, b.collection_name, g.chunk_span,
           greatest(now(), CASE WHEN b.is_next THEN now() ELSE g.updated_at END + $3::interval)
    FROM gone g, bot_collections b WHERE b.bot_id = $1
), counted AS (
    UPDATE bot_usage u SET documents = u.documents - g.documents, chunks = u.chunks - g.chunks
    FROM (SELECT count(*) AS documents, sum(chunk_count) AS chunks FROM gone) AS g
    WHERE u.bot_id = $1 AND g.documents > 0
)
SELECT bot_id, doc_id, chunk_count FROM gone;

-- name: patch_document
-- $3..$12: for each column whether it is set, and to what value. $13 is merged into metadata, then the keys $14 are
-- removed. $16: the keys of both. A stored key that is not in NFC is replaced by its NFC.
-- Metadata that may be longer than $15 bytes is returned, to be measured: jsonb's own text has more blanks.
UPDATE documents
SET title      = CASE WHEN $3::boolean THEN $4::text ELSE title END,
    file_path  = CASE WHEN $5::boolean THEN $6::text ELSE file_path END,
    file_type  = CASE WHEN $7::boolean THEN $8::text ELSE file_type END,
    author     = CASE WHEN $9::boolean THEN $10::text ELSE author END,
    tags       = CASE WHEN $11::boolean THEN $12::text[] ELSE tags END,
    metadata   = (metadata - ARRAY(SELECT k FROM jsonb_object_keys(metadata) AS k
                                   WHERE k IS NOT NFC NORMALIZED AND normalize(k, NFC) = ANY ($16::text[]))
                  || $13::jsonb) - $14::text[],
    updated_at = greatest(now(), updated_at + interval '1 microsecond')
WHERE bot_id = $1 AND doc_id = $2
RETURNING bot_id, generation, updated_at, CASE WHEN octet_length(metadata::text) > $15 THEN metadata END AS large_metadata;

-- name: patch_documents
-- As patch_document, for the documents $2, which are locked. A document that has these values already stays as it is.
UPDATE documents d
SET title = n.title, file_path = n.file_path, file_type = n.file_type, author = n.author, tags = n.tags,
    metadata = n.metadata, updated_at = greatest(now(), d.updated_at + interval '1 microsecond')
FROM (
    SELECT doc_id,
           CASE WHEN $3::boolean THEN $4::text ELSE title END      AS title,
           CASE WHEN $5::boolean THEN $6::text ELSE file_path END  AS file_path,
           CASE WHEN $7::boolean THEN $8::text ELSE file_type END  AS file_type,
           CASE WHEN $9::boolean THEN $10::text ELSE author END    AS author,
           CASE WHEN $11::boolean THEN $12::text[] ELSE tags END   AS tags,
           (metadata - ARRAY(SELECT k FROM jsonb_object_keys(metadata) AS k
                             WHERE k IS NOT NFC NORMALIZED AND normalize(k, NFC) = ANY ($16::text[]))
            || $13::jsonb) - $14::text[]                           AS metadata
    FROM documents
    WHERE bot_id = $1 AND doc_id = ANY ($2::bigint[])
) AS n
WHERE d.bot_id = $1 AND d.doc_id = n.doc_id
  AND (d.title, d.file_path, d.file_type, d.author, d.tags, d.metadata)
      IS DISTINCT FROM (n.title, n.file_path, n.file_type, n.author, n.tags, n.metadata)
RETURNING d.bot_id, d.doc_id, CASE WHEN octet_length(d.metadata::text) > $15 THEN d.metadata END AS large_metadata;

-- name: get_document
SELECT bot_id, doc_id, title, file_path, file_type, author, tags, metadata, chunk_count, created_at, updated_at,
       external_id, generation
FROM documents
WHERE bot_id = $1 AND doc_id = $2;

-- name: get_document_chunks
-- At most $4 chunks with keys above $3. OFFSET 0: read by key, as in current_chunks.
SELECT c.bot_id, c.chunk_id, c.chunk_index, c.text, c.page_number
FROM (SELECT doc_id, generation FROM documents d WHERE d.bot_id = $1 AND d.doc_id = $2 OFFSET 0) AS d
CROSS JOIN LATERAL (
    SELECT * FROM document_chunks c
    WHERE c.bot_id = $1 AND c.chunk_id > $3 AND c.chunk_id >= d.generation * 65536
      AND c.chunk_id < (d.generation + 1) * 65536 AND c.doc_id = d.doc_id
    ORDER BY c.chunk_id
    LIMIT $4
) AS c
ORDER BY c.chunk_id;

-- name: get_document_chunk
-- With a chunk_id of NULL if the document has no chunk $3.
SELECT d.bot_id, d.generation, d.updated_at, c.chunk_id, c.chunk_index, c.text, c.page_number
FROM (SELECT * FROM documents d WHERE d.bot_id = $1 AND d.doc_id = $2 OFFSET 0) AS d
LEFT JOIN LATERAL (
    SELECT * FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = d.generation * 65536 + $3 OFFSET 0
) AS c ON true;

-- name: stored_documents
-- Hashes of the texts, which are compared with new ones: the texts themselves may be large. OFFSET 0: as in
-- current_chunks. A document whose chunks are all lost has empty arrays.
SELECT d.bot_id, d.doc_id, d.title, d.file_path, d.file_type, d.author, d.tags, d.metadata, d.chunk_count,
       d.created_at, d.updated_at, d.external_id, d.generation, c.chunk_ids, c.page_numbers, c.text_hashes
FROM unnest($2::bigint[]) AS w (doc_id)
CROSS JOIN LATERAL (SELECT * FROM documents d WHERE d.bot_id = $1 AND d.doc_id = w.doc_id OFFSET 0) AS d
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(c.chunk_id ORDER BY c.chunk_id), '{}') AS chunk_ids,
           coalesce(array_agg(c.page_number ORDER BY c.chunk_id), '{}') AS page_numbers,
           coalesce(array_agg(sha256(convert_to(c.text, 'UTF8')) ORDER BY c.chunk_id), '{}') AS text_hashes
    FROM document_chunks c
    WHERE c.bot_id = $1 AND c.chunk_id >= d.generation * 65536 AND c.chunk_id < (d.generation + 1) * 65536
      AND c.doc_id = d.doc_id
) AS c;

-- name: list_documents
SELECT bot_id, doc_id, title, file_path, file_type, author, tags, metadata, chunk_count, created_at, updated_at,
       external_id, generation
FROM documents
WHERE bot_id = $1 AND doc_id > $2
ORDER BY doc_id
LIMIT $3;

-- name: documents_with_chunks
-- The next documents above $2 with all their chunks: at most $3, and no further one once these have $4 chunks.
-- OFFSET 0: as in current_chunks. A document whose chunks are all lost has empty arrays.
SELECT d.bot_id, d.doc_id, d.title, d.file_path, d.file_type, d.author, d.tags, d.metadata, d.chunk_count,
       d.created_at, d.updated_at, d.external_id, d.generation, c.chunk_ids, c.texts, c.page_numbers
FROM (
    SELECT d.*, sum(d.chunk_count) OVER (ORDER BY d.doc_id) - d.chunk_count AS chunks_before
    FROM (SELECT * FROM documents d WHERE d.bot_id = $1 AND d.doc_id > $2 ORDER BY d.doc_id LIMIT $3) AS d
) AS d
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(c.chunk_id ORDER BY c.chunk_id), '{}') AS chunk_ids,
           coalesce(array_agg(c.text ORDER BY c.chunk_id), '{}') AS texts,
           coalesce(array_agg(c.page_number ORDER BY c.chunk_id), '{}') AS page_numbers
    FROM document_chunks c
    WHERE c.bot_id = $1 AND c.chunk_id >= d.generation * 65536 AND c.chunk_id < (d.generation + 1) * 65536
      AND c.doc_id = d.doc_id
) AS c
WHERE d.chunks_before < $4
ORDER BY d.doc_id;

-- name: query_documents
-- Documents that pass the filter and come after a place in the order. With no index on the order all of them are sorted.
SELECT d.bot_id, d.doc_id, d.title, d.file_path, d.file_type, d.author, d.tags, d.metadata, d.chunk_count, d.created_at,
       d.updated_at, d.external_id, d.generation, /*sorted*/ d.doc_id AS sort_value
FROM documents d
WHERE d.bot_id = $1 AND (/*after*/ true) AND (/*filter*/ true)
ORDER BY /*order*/ d.doc_id
LIMIT $2;

-- name: count_documents
SELECT count(*) AS documents FROM documents d WHERE d.bot_id = $1 AND (/*filter*/ true);

-- name: facets_of_tags
-- By bot_id too, for the second check of the owner.
WITH counted AS (
    SELECT d.bot_id, v.value, count(*) AS documents
    FROM documents d CROSS JOIN LATERAL (SELECT DISTINCT unnest(/*key*/ d.tags)) AS v (value)
    WHERE d.bot_id = $1 AND (/*filter*/ true)
    GROUP BY d.bot_id, v.value
)
SELECT bot_id, value, documents, count(*) OVER (PARTITION BY bot_id) AS all_values,
       (sum(documents) OVER (PARTITION BY bot_id))::bigint AS all_documents
FROM counted
ORDER BY documents DESC, value COLLATE "C"
LIMIT $2;

-- name: facets
-- Documents are grouped by all that they hold under the key; then arrays are split. Few groups hold most documents.
WITH grouped AS (
    SELECT d.bot_id, /*key*/ d.title AS held, count(*) AS documents FROM documents d
    WHERE d.bot_id = $1 AND (/*filter*/ true)
    GROUP BY 1, 2
), counted AS (
    SELECT g.bot_id, v.value, sum(g.documents)::bigint AS documents
    FROM grouped g CROSS JOIN LATERAL (/*values*/ SELECT g.held AS value) AS v
    GROUP BY g.bot_id, v.value
)
SELECT bot_id, value, documents, count(*) OVER (PARTITION BY bot_id) AS all_values,
       (sum(documents) OVER (PARTITION BY bot_id))::bigint AS all_documents
FROM counted
ORDER BY documents DESC, value::text COLLATE "C"
LIMIT $2;

-- ---------------------------------------------------------------- synchronizations

-- name: begin_sync
-- Returns no row while another session has the lease.
INSERT INTO sync_sessions AS s (bot_id, session_id, lease_until) VALUES ($1, $2, now() + $3::interval)
ON CONFLICT (bot_id) DO UPDATE
SET session_id = excluded.session_id, lease_until = excluded.lease_until, incomplete = false
WHERE s.lease_until < now()
RETURNING bot_id;

-- name: forget_missing
DELETE FROM sync_missing WHERE bot_id = $1;

-- name: expect_documents
INSERT INTO sync_missing (bot_id, external_id, doc_id)
SELECT $1, external_id, doc_id FROM documents WHERE bot_id = $1 AND external_id IS NOT NULL;

-- name: renew_sync
-- The row is locked until the commit, so that no other session begins.
UPDATE sync_sessions SET lease_until = now() + $3::interval, incomplete = incomplete OR $4
WHERE bot_id = $1 AND session_id = $2
RETURNING bot_id, incomplete;

-- name: found_in_sync
DELETE FROM sync_missing WHERE bot_id = $1 AND external_id = ANY ($2::text[]);

-- name: missing_documents
SELECT bot_id, doc_id FROM sync_missing WHERE bot_id = $1 ORDER BY doc_id LIMIT $2;

-- name: count_missing
SELECT count(*) AS documents FROM sync_missing WHERE bot_id = $1;

-- name: end_missing
DELETE FROM sync_missing WHERE bot_id = $1 AND doc_id = ANY ($2::bigint[]);

-- name: end_sync
DELETE FROM sync_sessions WHERE bot_id = $1 AND session_id = $2 RETURNING bot_id;

-- ---------------------------------------------------------------- jobs

-- name: end_interrupted_jobs
-- Of this kind and bot, if its process is gone.
UPDATE jobs SET state = 'interrupted', ended_at = lease_until
WHERE kind = $1 AND bot_id IS NOT DISTINCT FROM $2 AND state = 'running' AND lease_until < now();

-- name: forget_old_jobs
DELETE FROM jobs WHERE ended_at < now() - $1::interval;

-- name: start_job
-- Returns no row while another job of this kind is running for the bot.
INSERT INTO jobs (job_id, kind, bot_id, options, unit, lease_token, lease_until)
VALUES ($1, $2, $3, $4, $5, $6, now() + $7::interval)
ON CONFLICT DO NOTHING
RETURNING job_id, kind, bot_id, options, state, unit, done, total, result, error, cancel_requested, created_at, ended_at;

-- name: renew_job
UPDATE jobs SET done = $3, total = $4, unit = $5, lease_until = now() + $6::interval
WHERE job_id = $1 AND lease_token = $2 AND state = 'running'
RETURNING cancel_requested;

-- name: end_job
UPDATE jobs SET state = $3, result = $4, error = $5, done = $6, total = $7, unit = $8, ended_at = now()
WHERE job_id = $1 AND lease_token = $2 AND state = 'running'
RETURNING job_id;

-- name: cancel_job
-- A job without a process ends here. $2: as in list_jobs.
UPDATE jobs j SET cancel_requested = true,
                  state = CASE WHEN lease_until < now() THEN 'cancelled' ELSE state END,
                  ended_at = CASE WHEN lease_until < now() THEN now() END
WHERE job_id = $1 AND state = 'running'
  AND ($2::text IS NULL OR EXISTS (SELECT FROM bot_registry b WHERE b.bot_id = j.bot_id AND b.account_name = $2));

-- name: list_jobs
-- $1: of the bots of this account; NULL: all jobs. $2 and $3: only this job, only of this bot. Newest first.
SELECT job_id, kind, j.bot_id, options,
       CASE WHEN j.state = 'running' AND lease_until < now() THEN 'interrupted' ELSE j.state END AS state,
       unit, done, total, result, error, cancel_requested, j.created_at,
       CASE WHEN j.state = 'running' AND lease_until < now() THEN lease_until ELSE ended_at END AS ended_at
FROM jobs j LEFT JOIN bot_registry b USING (bot_id)
WHERE ($1::text IS NULL OR b.account_name = $1)
  AND ($2::uuid IS NULL OR job_id = $2)
  AND ($3::uuid IS NULL OR j.bot_id = $3)
ORDER BY j.created_at DESC, job_id
LIMIT $4;

-- ---------------------------------------------------------------- search

-- name: current_chunks
-- The chunks of the keys $2 that are current and pass the filter. Text and metadata only for the keys that $3 has
-- too. No rows if $4 to $11, an ExpectedBot, are given and the bot's row does not meet them; of its other columns a
-- search needs none that can change. OFFSET 0 forces one lookup by key per chunk: before the first ANALYZE of a
-- partition the planner takes bot_id for selective, and a join would read the whole partition.
SELECT c.chunk_id, c.doc_id, c.chunk_index, k.chunk_id = ANY ($3::bigint[]) AS hydrate,
       CASE WHEN k.chunk_id = ANY ($3::bigint[]) THEN c.text END AS text, c.page_number,
       d.title, d.file_type, d.file_path, d.author, d.tags,
       CASE WHEN k.chunk_id = ANY ($3::bigint[]) THEN d.metadata END AS metadata,
       d.created_at, d.updated_at, d.external_id, c.bot_id, d.bot_id AS document_bot_id
FROM unnest($2::bigint[]) AS k (chunk_id)
CROSS JOIN LATERAL (
    SELECT * FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = k.chunk_id OFFSET 0
) AS c
CROSS JOIN LATERAL (
    SELECT * FROM documents d
    WHERE d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16 AND (/*filter*/ true)
    OFFSET 0
) AS d
WHERE $4::timestamptz IS NULL OR (
    EXISTS (
        SELECT FROM bot_registry
        WHERE bot_id = $1 AND state = 'active' AND created_at = $4
          AND coalesce(milvus_collection, collection_name) = $5::text
          AND statistics_version IS NOT DISTINCT FROM $6::uuid
          AND default_mode IS NOT DISTINCT FROM $7::text AND default_dense_weight IS NOT DISTINCT FROM $8::float8
          AND default_min_confidence IS NOT DISTINCT FROM $9::float8
          AND (milvus_timestamp <= $10::bigint OR last_writer = $11::uuid AND foreign_timestamp <= $10))
    AND NOT EXISTS (SELECT FROM index_rebuilds WHERE bot_id = $1));

-- name: current_chunks_of_documents
-- As current_chunks; in the same snapshot also all current chunks of the documents $4, with text and metadata.
WITH keys AS (
    SELECT unnest($2::bigint[]) AS chunk_id
    UNION
    SELECT c.chunk_id FROM unnest($4::bigint[]) AS w (doc_id)
    CROSS JOIN LATERAL (SELECT * FROM documents d WHERE d.bot_id = $1 AND d.doc_id = w.doc_id OFFSET 0) AS d
    CROSS JOIN LATERAL (
        SELECT c.chunk_id FROM document_chunks c
        WHERE c.bot_id = $1 AND c.chunk_id >= d.generation * 65536 AND c.chunk_id < (d.generation + 1) * 65536
        OFFSET 0
    ) AS c
)
SELECT c.chunk_id, c.doc_id, c.chunk_index, w.hydrate, CASE WHEN w.hydrate THEN c.text END AS text, c.page_number,
       d.title, d.file_type, d.file_path, d.author, d.tags, CASE WHEN w.hydrate THEN d.metadata END AS metadata,
       d.created_at, d.updated_at, d.external_id, c.bot_id, d.bot_id AS document_bot_id
FROM keys AS k
CROSS JOIN LATERAL (
    SELECT * FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = k.chunk_id OFFSET 0
) AS c
CROSS JOIN LATERAL (
    SELECT * FROM documents d
    WHERE d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16 AND (/*filter*/ true)
    OFFSET 0
) AS d
CROSS JOIN LATERAL (
    SELECT k.chunk_id = ANY ($3::bigint[]) OR c.doc_id = ANY ($4::bigint[]) AS hydrate
) AS w;

-- name: stale_chunks
-- The keys $2 whose chunks no longer exist, with the document that each belonged to and that document's present
-- number of chunks: NULL when the document is gone. doc_id is NULL when the chunk's vectors were already collected.
SELECT k.chunk_id, g.doc_id,
       (SELECT d.chunk_count FROM documents d WHERE d.bot_id = $1 AND d.doc_id = g.doc_id) AS chunk_count
FROM unnest($2::bigint[]) AS k (chunk_id)
LEFT JOIN LATERAL (
    SELECT doc_id FROM vector_gc WHERE generation = k.chunk_id >> 16 AND collection_name = $3 AND bot_id = $1 OFFSET 0
) AS g ON true
WHERE (SELECT true FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = k.chunk_id) IS NULL;

-- name: chunk_texts
SELECT c.bot_id, c.chunk_id, c.text
FROM unnest($2::bigint[]) AS k (chunk_id)
CROSS JOIN LATERAL (
    SELECT * FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = k.chunk_id OFFSET 0
) AS c;

-- name: neighbouring_chunks
-- Up to $3 chunks before and up to $3 after each of the keys $2, within its generation.
SELECT n.bot_id, k.chunk_id AS neighbour_of, n.chunk_id, n.chunk_index, n.text, n.page_number
FROM unnest($2::bigint[]) AS k (chunk_id)
CROSS JOIN LATERAL (
    (SELECT c.bot_id, c.chunk_id, c.chunk_index, c.text, c.page_number FROM document_chunks c
     WHERE c.bot_id = $1 AND c.chunk_id >= (k.chunk_id >> 16) * 65536 AND c.chunk_id < k.chunk_id
     ORDER BY c.chunk_id DESC
     LIMIT $3)
    UNION ALL
    (SELECT c.bot_id, c.chunk_id, c.chunk_index, c.text, c.page_number FROM document_chunks c
     WHERE c.bot_id = $1 AND c.chunk_id > k.chunk_id AND c.chunk_id < ((k.chunk_id >> 16) + 1) * 65536
     ORDER BY c.chunk_id
     LIMIT $3)
) AS n
ORDER BY k.chunk_id, n.chunk_id;

-- name: matching_chunks
-- Keys of current chunks above $2 that pass a filter on columns of the chunk, c, and the document, d.
SELECT c.bot_id, d.bot_id AS document_bot_id, c.chunk_id
FROM document_chunks c
JOIN documents d ON d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16
WHERE c.bot_id = $1 AND c.chunk_id > $2 AND (/*filter*/ true)
ORDER BY c.chunk_id
LIMIT $3;

-- name: text_bytes
-- Bytes of the texts of the keys $2 and of their neighbouring_chunks; the texts are not returned.
SELECT coalesce(sum(octet_length(n.text)), 0) AS bytes
FROM unnest($2::bigint[]) AS k (chunk_id)
CROSS JOIN LATERAL (
    (SELECT c.text FROM document_chunks c
     WHERE c.bot_id = $1 AND c.chunk_id >= (k.chunk_id >> 16) * 65536 AND c.chunk_id <= k.chunk_id
     ORDER BY c.chunk_id DESC
     LIMIT $3 + 1)
    UNION ALL
    (SELECT c.text FROM document_chunks c
     WHERE c.bot_id = $1 AND c.chunk_id > k.chunk_id AND c.chunk_id < ((k.chunk_id >> 16) + 1) * 65536
     ORDER BY c.chunk_id
     LIMIT $3)
) AS n;

-- name: matching_documents
SELECT d.bot_id, d.doc_id FROM documents d
WHERE d.bot_id = $1 AND d.doc_id > $2 AND (/*filter*/ true)
ORDER BY d.doc_id
LIMIT $3;

-- name: write_timestamps
SELECT milvus_timestamp, last_writer, foreign_timestamp, coalesce(milvus_collection, collection_name) AS milvus_collection
FROM bot_registry WHERE bot_id = $1 AND state = 'active';

-- name: recent_writes
-- The same, and the vectors in recent_vectors of the last $2 before the newest timestamp, newest first, at most $3. Of
-- one moment, as rows are swept. There is one row without a vector if there is no vector.
SELECT b.milvus_timestamp, b.last_writer, b.foreign_timestamp, b.unshared_timestamp,
       coalesce(b.milvus_collection, b.collection_name) AS milvus_collection,
       v.milvus_timestamp AS written, v.chunk_id, v.doc_id, v.embedding
FROM bot_registry b
LEFT JOIN LATERAL (
    SELECT * FROM recent_vectors v
    WHERE v.bot_id = $1 AND v.milvus_timestamp > greatest(b.unshared_timestamp, b.milvus_timestamp - $2::bigint)
    ORDER BY v.milvus_timestamp DESC
    LIMIT $3
) AS v ON true
WHERE b.bot_id = $1 AND b.state = 'active';

-- ---------------------------------------------------------------- confidence

-- name: get_statistics
SELECT b.bot_id, b.statistics_version, b.analyzer_version, b.title_in_lexical, f.sampled, f.terms, c.with_similarity,
       c.words_only
FROM bot_registry b
LEFT JOIN term_counts f
       ON f.bot_id = b.bot_id AND f.analyzer_version = b.analyzer_version AND f.title_in_lexical = b.title_in_lexical
LEFT JOIN calibrations c ON c.embedding_model = b.embedding_model AND c.dimension = b.dimension
                        AND c.analyzer_version = b.analyzer_version
WHERE b.bot_id = $1 AND b.state = 'active';

-- name: size_of_bot
-- Its chunks, counted up to $2, and the pages of its partition.
SELECT (SELECT count(*) FROM (SELECT FROM document_chunks WHERE bot_id = $1 LIMIT $2) AS c)::integer AS chunks,
       (coalesce(pg_relation_size(to_regclass(format('%I', bot_partition_name('document_chunks', $1)))), 0)
        / current_setting('block_size')::integer)::integer AS pages;

-- name: first_chunks
-- At most $2 current chunks of a bot that has hardly more.
SELECT c.bot_id, d.title, c.text
FROM document_chunks c
JOIN documents d ON d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16
WHERE c.bot_id = $1
LIMIT $2;

-- name: sampled_chunks
-- At most $2 current chunks, drawn from about $3 percent of the pages.
WITH drawn AS MATERIALIZED (
    SELECT chunk_id FROM document_chunks TABLESAMPLE SYSTEM ($3::real) WHERE bot_id = $1 ORDER BY random() LIMIT $2
)
SELECT c.bot_id, d.title, c.text
FROM drawn
CROSS JOIN LATERAL (
    SELECT * FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = drawn.chunk_id OFFSET 0
) AS c
CROSS JOIN LATERAL (
    SELECT * FROM documents d WHERE d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16 OFFSET 0
) AS d;

-- name: store_frequencies
-- Unless the bot's statistics are not those of version $2 any more, or its words are made in another way.
WITH bot AS (
    UPDATE bot_registry SET statistics_version = gen_random_uuid()
    WHERE bot_id = $1 AND state = 'active' AND statistics_version IS NOT DISTINCT FROM $2
      AND analyzer_version = $3 AND title_in_lexical = $4
    RETURNING bot_id
)
INSERT INTO term_counts (bot_id, analyzer_version, title_in_lexical, sampled, terms, chunks, pages)
SELECT bot_id, $3, $4, $5, $6, $7, $8 FROM bot
ON CONFLICT (bot_id) DO UPDATE
SET analyzer_version = excluded.analyzer_version, title_in_lexical = excluded.title_in_lexical,
    sampled = excluded.sampled, terms = excluded.terms, chunks = excluded.chunks, pages = excluded.pages,
    sampled_at = now(), checked_at = now()
RETURNING bot_id;

-- name: claim_frequency_check
-- No row if a server has checked within the last $2.
UPDATE term_counts f SET checked_at = now()
FROM bot_registry b
WHERE f.bot_id = $1 AND b.bot_id = $1 AND b.state = 'active' AND f.checked_at < now() - $2::interval
RETURNING b.statistics_version, b.analyzer_version, b.title_in_lexical, f.chunks, f.pages,
          extract(epoch FROM now() - f.sampled_at)::float8 AS age;

-- name: store_calibration
INSERT INTO calibrations (embedding_model, dimension, analyzer_version, with_similarity, words_only)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (embedding_model, dimension, analyzer_version) DO UPDATE
SET with_similarity = excluded.with_similarity, words_only = excluded.words_only, calibrated_at = now();

-- name: renew_statistics_versions
-- Of the bots that a calibration is for. They are locked in the order in which other statements lock them.
WITH locked AS (
    SELECT bot_id FROM bot_registry
    WHERE embedding_model = $1 AND dimension = $2 AND analyzer_version = $3
    ORDER BY bot_id
    FOR NO KEY UPDATE
)
UPDATE bot_registry b SET statistics_version = gen_random_uuid() FROM locked WHERE b.bot_id = locked.bot_id
RETURNING b.bot_id;

-- ---------------------------------------------------------------- vector_gc

-- name: claim_garbage
UPDATE vector_gc
SET attempts = attempts + 1, next_attempt_at = now() + $1::interval
WHERE (generation, collection_name) IN (
    SELECT generation, collection_name FROM vector_gc
    WHERE next_attempt_at <= now()
    ORDER BY next_attempt_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED)
RETURNING generation, chunk_span, collection_name, not_before, now() >= not_before AS window_passed;

-- name: complete_garbage
-- Not a row that was added again since it was claimed: its vectors may have appeared since.
DELETE FROM vector_gc g
USING unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS w (generation, collection_name, not_before)
WHERE g.generation = w.generation AND g.collection_name = w.collection_name AND g.not_before = w.not_before;

-- name: reschedule_garbage
UPDATE vector_gc g
SET next_attempt_at = greatest(not_before, now() + least(power(2, least(attempts, 6)), 60) * interval '1 second')
FROM unnest($1::bigint[], $2::text[]) AS w (generation, collection_name)
WHERE g.generation = w.generation AND g.collection_name = w.collection_name;

-- name: defer_garbage
UPDATE vector_gc g
SET next_attempt_at = 'infinity'
FROM unnest($1::bigint[], $2::text[]) AS w (generation, collection_name)
WHERE g.generation = w.generation AND g.collection_name = w.collection_name;

-- name: deferred_garbage
SELECT DISTINCT collection_name FROM vector_gc WHERE next_attempt_at = 'infinity';

-- name: resume_garbage
UPDATE vector_gc SET next_attempt_at = now() WHERE next_attempt_at = 'infinity' AND collection_name = ANY ($1::text[]);

-- ---------------------------------------------------------------- collections in Milvus's memory

-- name: lock_collection_loads
-- The statements after it change many rows, or depend on rows that others change.
SELECT pg_advisory_xact_lock(hashtextextended('collection_loads', 0));

-- name: claim_load
INSERT INTO collection_loads AS l (collection_name, is_loaded, action, lease_token, lease_until)
VALUES ($1, false, 'load', $2, now() + $3::interval)
ON CONFLICT (collection_name) DO UPDATE
SET action = excluded.action, lease_token = excluded.lease_token, lease_until = excluded.lease_until, last_used_at = now()
-- A lease without an action announces a release, which this prevents.
WHERE l.lease_until IS NULL OR l.lease_until < now() OR l.lease_token = excluded.lease_token OR l.action IS NULL
RETURNING collection_name;

-- name: load_action
SELECT action FROM collection_loads WHERE collection_name = $1 AND lease_until >= now();

-- name: announce_releases
-- Whether others have claimed a row meanwhile is asked of the row as it is then.
UPDATE collection_loads l
SET action = NULL, lease_token = $3, lease_until = now() + $4::interval
WHERE l.collection_name IN (
    SELECT i.collection_name FROM collection_loads i
    JOIN bot_registry b ON coalesce(b.milvus_collection, b.collection_name) = i.collection_name
    WHERE i.is_loaded AND NOT b.pinned AND i.last_used_at < now() - $2::interval
      AND (i.lease_until IS NULL OR i.lease_until < now())
    ORDER BY i.last_used_at
    LIMIT (SELECT greatest(0, count(*) - $1::bigint
                              - count(*) FILTER (WHERE lease_until >= now() AND action IS DISTINCT FROM 'load'))
           FROM collection_loads WHERE is_loaded))
  AND (l.lease_until IS NULL OR l.lease_until < now()) AND l.last_used_at < now() - $2::interval
RETURNING l.collection_name;

-- name: begin_release
-- Not of a collection that was claimed or used since it was announced.
UPDATE collection_loads l
SET action = 'release', lease_until = now() + $3::interval
WHERE l.collection_name = $1 AND l.lease_token = $2 AND l.action IS NULL AND l.lease_until >= now()
  AND l.last_used_at < now() - $4::interval
  AND NOT EXISTS (SELECT FROM collection_loads WHERE action = 'release' AND lease_until >= now())
RETURNING l.collection_name;

-- name: leaving_collections
SELECT collection_name FROM collection_loads WHERE lease_until >= now() AND action IS DISTINCT FROM 'load';

-- name: end_load
UPDATE collection_loads
SET is_loaded = coalesce($3, is_loaded), action = NULL, lease_token = NULL, lease_until = NULL
WHERE collection_name = $1 AND lease_token = $2;

-- name: forget_loads
-- Of bots that were deleted, and collections that were replaced.
DELETE FROM collection_loads l
WHERE NOT EXISTS (SELECT FROM bot_registry b WHERE coalesce(b.milvus_collection, b.collection_name) = l.collection_name);

-- name: observe_loaded
INSERT INTO collection_loads AS l (collection_name, is_loaded)
SELECT n.name, true FROM unnest($1::text[]) AS n (name)
WHERE EXISTS (SELECT FROM bot_registry b WHERE coalesce(b.milvus_collection, b.collection_name) = n.name)
ON CONFLICT (collection_name) DO UPDATE SET is_loaded = true, last_used_at = now()
WHERE NOT l.is_loaded AND (l.lease_until IS NULL OR l.lease_until < now());

-- name: observe_released
UPDATE collection_loads SET is_loaded = false
WHERE is_loaded AND NOT collection_name = ANY ($1::text[]) AND (lease_until IS NULL OR lease_until < now());

-- name: note_uses
-- $2: seconds since each was used.
UPDATE collection_loads l SET last_used_at = greatest(l.last_used_at, now() - u.ago * interval '1 second')
FROM unnest($1::text[], $2::float8[]) AS u (name, ago)
WHERE l.collection_name = u.name;

-- name: count_loaded
SELECT count(*) AS collections FROM collection_loads WHERE is_loaded;

-- name: load_states
SELECT collection_name, last_used_at,
       CASE WHEN action = 'load' AND lease_until >= now() AND NOT is_loaded THEN 'loading'
            WHEN action = 'release' AND lease_until >= now() THEN 'released'
            WHEN is_loaded THEN 'loaded'
            ELSE 'released' END AS state
FROM collection_loads
WHERE collection_name = ANY ($1::text[]);

-- ---------------------------------------------------------------- model migrations and rebuilds

-- name: take_migration_lease
-- Returns no row while another token has the lease.
INSERT INTO reembed_leases AS l (bot_id, lease_token, lease_until) VALUES ($1, $2, now() + $3::interval)
ON CONFLICT (bot_id) DO UPDATE SET lease_token = excluded.lease_token, lease_until = excluded.lease_until
WHERE l.lease_until < now()
RETURNING lease_until;

-- name: get_migration_lease
SELECT lease_until FROM reembed_leases WHERE bot_id = $1;

-- name: renew_migration_lease
UPDATE reembed_leases SET lease_until = now() + $3::interval WHERE bot_id = $1 AND lease_token = $2
RETURNING lease_until;

-- name: release_migration_lease
DELETE FROM reembed_leases WHERE bot_id = $1 AND lease_token = $2;

-- name: lock_bot_exclusively
-- Waits for every transaction that has the bot locked for use, and blocks new ones. The following statements see what
-- the earlier transactions did, and later transactions see what this one does.
SELECT embedding_model, dimension, coalesce(milvus_collection, collection_name) AS milvus_collection, milvus_timestamp,
       analyzer_version, title_in_lexical,
       next_collection, next_model, next_dimension, coalesce(next_analyzer_version, 1) AS next_analyzer_version,
       coalesce(next_title_in_lexical, false) AS next_title_in_lexical,
       pg_advisory_xact_lock(hashtextextended('bot ' || bot_id, 0)) AS turn
FROM bot_registry
WHERE bot_id = $1 AND state = 'active'
FOR UPDATE;

-- name: begin_migration
-- The name is unique: no bot can have claimed it, and no other deployment on the same Milvus has it.
UPDATE bot_registry
SET next_collection = format('r%s_%s', nextval('generation_seq'), replace(gen_random_uuid()::text, '-', '')),
    next_model = $2, next_dimension = $3, next_analyzer_version = $4, next_title_in_lexical = $5
WHERE bot_id = $1
RETURNING next_collection;

-- name: get_migration
-- A server of an earlier version writes words as the first analyzer makes them.
SELECT next_collection AS collection_name, next_model AS embedding_model, next_dimension AS dimension,
       coalesce(next_analyzer_version, 1) AS analyzer_version, coalesce(next_title_in_lexical, false) AS title_in_lexical
FROM bot_registry
WHERE bot_id = $1 AND state = 'active' AND next_collection IS NOT NULL;

-- name: low_watermark
-- After lock_bot_exclusively, so that no T1 that has a generation is still to commit its saga. No further generation
-- below this one becomes current.
SELECT least((SELECT min(generation) FROM sagas WHERE bot_id = $1 AND operation = 'write'),
             (SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END FROM generation_seq));

-- name: page_of_current_chunks
SELECT c.chunk_id, c.doc_id, d.title, c.text, d.chunk_span
FROM document_chunks c
JOIN documents d ON d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16
WHERE c.bot_id = $1 AND c.chunk_id > $2
ORDER BY c.chunk_id
LIMIT $3;

-- name: current_chunks_from
-- Keys from $2 on, at most $3 of them; all with NULL.
SELECT c.chunk_id
FROM document_chunks c
JOIN documents d ON d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16
WHERE c.bot_id = $1 AND c.chunk_id >= $2
ORDER BY c.chunk_id
LIMIT $3;

-- name: chunks_by_key
SELECT c.chunk_id, c.doc_id, d.title, c.text, d.chunk_span
FROM document_chunks c
JOIN documents d ON d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16
WHERE c.bot_id = $1 AND c.chunk_id = ANY ($2::bigint[])
ORDER BY c.chunk_id;

-- name: cut_over_collection
UPDATE bot_registry
SET milvus_collection = next_collection, embedding_model = next_model, dimension = next_dimension,
    analyzer_version = coalesce(next_analyzer_version, 1), title_in_lexical = coalesce(next_title_in_lexical, false),
    milvus_timestamp = greatest(milvus_timestamp, $2), next_collection = NULL, next_model = NULL, next_dimension = NULL,
    next_analyzer_version = NULL, next_title_in_lexical = NULL
WHERE bot_id = $1;

-- name: abort_migration
UPDATE bot_registry
SET next_collection = NULL, next_model = NULL, next_dimension = NULL, next_analyzer_version = NULL,
    next_title_in_lexical = NULL
WHERE bot_id = $1;

-- name: begin_replacement
-- A collection with a unique name. If the process dies before the bot has it, recovery drops it.
INSERT INTO sagas (generation, operation, bot_id, collection_name, lease_token, lease_until)
SELECT g, 'drop_collection', $1, format('r%s_%s', g, replace(gen_random_uuid()::text, '-', '')), $2,
       now() + $3::interval
FROM nextval('generation_seq') AS g
RETURNING generation, operation, bot_id, collection_name;

-- name: replace_collection
UPDATE bot_registry SET milvus_collection = $2 WHERE bot_id = $1;

-- name: has_chunks
SELECT EXISTS (SELECT FROM documents WHERE bot_id = $1)
    OR EXISTS (SELECT FROM sagas WHERE bot_id = $1 AND operation = 'write');

-- name: begin_rebuild
-- After lock_bot_exclusively, so that every generation below the one that is taken here is current, or its write
-- will be restarted for the new collection.
INSERT INTO index_rebuilds (bot_id, before_generation, in_place, chunks_total)
SELECT $1, nextval('generation_seq'), $2, coalesce(sum(chunk_count), 0) FROM documents WHERE bot_id = $1
ON CONFLICT (bot_id) DO UPDATE
SET before_generation = excluded.before_generation, in_place = excluded.in_place, attempts = 0, chunks_done = 0,
    chunks_total = excluded.chunks_total, lease_token = NULL, lease_until = NULL, started_at = now();

-- name: rebuilds
SELECT bot_id, in_place, chunks_done, chunks_total FROM index_rebuilds ORDER BY started_at;

-- name: claim_rebuild
-- A rebuild that no process works on, of a bot that is not in $3; with $4 only of that bot.
UPDATE index_rebuilds
SET lease_token = $1, lease_until = now() + $2::interval, attempts = attempts + 1, chunks_done = 0
WHERE bot_id = (
    SELECT bot_id FROM index_rebuilds
    WHERE (lease_until IS NULL OR lease_until < now()) AND bot_id <> ALL ($3::uuid[])
      AND ($4::uuid IS NULL OR bot_id = $4)
    ORDER BY started_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED)
RETURNING bot_id, before_generation, in_place, chunks_total, attempts;

-- name: renew_rebuild
UPDATE index_rebuilds SET lease_until = now() + $3::interval, chunks_done = $4
WHERE bot_id = $1 AND lease_token = $2
RETURNING bot_id;

-- name: release_rebuild
UPDATE index_rebuilds SET lease_token = NULL, lease_until = NULL WHERE bot_id = $1 AND lease_token = $2;

-- name: end_rebuild
DELETE FROM index_rebuilds WHERE bot_id = $1 AND ($2::uuid IS NULL OR lease_token = $2) RETURNING bot_id;

-- name: claim_index_check
-- settled: the jump, if there was one, is longer ago than $2.
INSERT INTO index_checks AS c (bot_id)
SELECT b.bot_id FROM bot_registry b LEFT JOIN index_checks last USING (bot_id)
WHERE b.state = 'active' AND b.embedding_model IS NOT NULL
  AND (last.checked_at IS NULL OR last.checked_at < now() - $1::interval)
  AND NOT EXISTS (SELECT FROM index_rebuilds r WHERE r.bot_id = b.bot_id)
ORDER BY last.checked_at NULLS FIRST, b.bot_id
LIMIT 1
ON CONFLICT (bot_id) DO UPDATE SET checked_at = now() WHERE c.checked_at < now() - $1::interval
RETURNING bot_id, coalesce(lost_below, 0) AS lost_below, NOT EXISTS (
    SELECT FROM generation_blocks
    WHERE first_generation = lost_below AND reserved_at > now() - $2::interval) AS settled;

-- name: extend_index_check
UPDATE index_checks SET checked_at = now() WHERE bot_id = $1;

-- name: trust_counts
-- Unless PostgreSQL was restored again.
UPDATE index_checks SET lost_below = NULL WHERE bot_id = $1 AND lost_below = $2;

-- name: drop_collection_later
-- By recovery, when its lease has expired.
INSERT INTO sagas (generation, operation, bot_id, collection_name, lease_token, lease_until)
VALUES (nextval('generation_seq'), 'drop_collection', $1, $2, $3, now() + $4::interval)
RETURNING generation;

-- ---------------------------------------------------------------- verify

-- name: unknown_keys
-- The keys $2 that should not be in Milvus: those without a chunk whose generation is not in vector_gc.
SELECT k.chunk_id FROM unnest($2::bigint[]) AS k (chunk_id)
WHERE NOT EXISTS (SELECT FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = k.chunk_id)
  AND NOT EXISTS (SELECT FROM vector_gc g WHERE g.generation = k.chunk_id >> 16 AND g.collection_name = $3);

-- name: page_of_documents
SELECT doc_id FROM documents
WHERE bot_id = $1 AND doc_id > $2
ORDER BY doc_id
LIMIT $3;

-- name: current_chunk_ids
SELECT c.chunk_id, c.doc_id
FROM document_chunks c
JOIN documents d ON d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16
WHERE c.bot_id = $1 AND c.doc_id = ANY ($2::bigint[]);

-- name: sampled_keys
SELECT c.chunk_id
FROM document_chunks c
JOIN documents d ON d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16
WHERE c.bot_id = $1
ORDER BY random()
LIMIT $2;

-- name: wrong_chunk_counts
SELECT d.doc_id FROM documents d
WHERE d.bot_id = $1
  AND d.chunk_count <> (SELECT count(*) FROM document_chunks c
                        WHERE c.bot_id = $1 AND c.doc_id = d.doc_id AND c.chunk_id >> 16 = d.generation)
LIMIT 1000;

-- name: stray_chunks
-- Chunks whose generation is not current and has no saga.
SELECT c.chunk_id
FROM document_chunks c
WHERE c.bot_id = $1
  AND NOT EXISTS (SELECT FROM documents d
                  WHERE d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16)
  AND NOT EXISTS (SELECT FROM sagas s WHERE s.generation = c.chunk_id >> 16)
LIMIT 1000;

-- name: recount_chunks
-- Documents that lost chunks keep the rest; those that lost all are deleted. One that was replaced meanwhile stays.
WITH counted AS MATERIALIZED (
    SELECT d.doc_id, d.generation, d.chunk_count,
           (SELECT count(*) FROM document_chunks c
            WHERE c.bot_id = $1 AND c.doc_id = d.doc_id AND c.chunk_id >> 16 = d.generation) AS chunks
    FROM documents d
    WHERE d.bot_id = $1 AND d.doc_id = ANY ($2::bigint[])
), kept AS (
    UPDATE documents d SET chunk_count = counted.chunks, updated_at = updated_at + interval '1 microsecond' FROM counted
    WHERE d.bot_id = $1 AND d.doc_id = counted.doc_id AND d.generation = counted.generation AND counted.chunks > 0
    RETURNING counted.chunk_count - counted.chunks AS chunks
), gone AS (
    DELETE FROM documents d USING counted
    WHERE d.bot_id = $1 AND d.doc_id = counted.doc_id AND d.generation = counted.generation AND counted.chunks = 0
    RETURNING d.chunk_count AS chunks
)
UPDATE bot_usage
SET documents = documents - (SELECT count(*) FROM gone),
    chunks = chunks - (SELECT coalesce(sum(chunks), 0) FROM gone) - (SELECT coalesce(sum(chunks), 0) FROM kept)
WHERE bot_id = $1;

-- name: drop_stray_chunks
DELETE FROM document_chunks c
WHERE c.bot_id = $1 AND c.chunk_id = ANY ($2::bigint[])
  AND NOT EXISTS (SELECT FROM documents d
                  WHERE d.bot_id = $1 AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16)
  AND NOT EXISTS (SELECT FROM sagas s WHERE s.generation = c.chunk_id >> 16);

-- name: make_partitions
SELECT make_bot_partitions($1);

-- name: all_bots
-- With $1 only that bot.
SELECT bot_id, coalesce(milvus_collection, collection_name) AS collection_name, state, embedding_model, next_model,
       EXISTS (SELECT FROM index_rebuilds r WHERE r.bot_id = b.bot_id) AS is_rebuilding,
       to_regclass(format('%I', bot_partition_name('documents', bot_id))) IS NOT NULL
           AND to_regclass(format('%I', bot_partition_name('document_chunks', bot_id))) IS NOT NULL AS has_partitions
FROM bot_registry b
WHERE $1::uuid IS NULL OR bot_id = $1
ORDER BY bot_id;

-- name: bots_to_normalize
-- Those of the bots $1 that exist; with NULL all bots that may have documents that are not in NFC.
SELECT bot_id FROM bot_registry
WHERE state = 'active' AND CASE WHEN $1::uuid[] IS NULL THEN NOT unicode_normalized ELSE bot_id = ANY ($1) END
ORDER BY bot_id;

-- name: count_unnormalized_bots
SELECT count(*) AS bots FROM bot_registry
WHERE state = 'active' AND embedding_model IS NOT NULL AND NOT unicode_normalized;

-- name: end_of_page
SELECT count(*) AS documents, max(doc_id) AS last
FROM (SELECT doc_id FROM documents WHERE bot_id = $1 AND doc_id > $2 ORDER BY doc_id LIMIT $3) AS page;

-- name: lock_unnormalized_documents
-- doc_ids above $2, up to $3.
SELECT doc_id, title, file_path, file_type, author, tags, metadata FROM documents
WHERE bot_id = $1 AND doc_id > $2 AND doc_id <= $3
  AND (title IS NOT NFC NORMALIZED OR file_path IS NOT NFC NORMALIZED OR file_type IS NOT NFC NORMALIZED
       OR author IS NOT NFC NORMALIZED OR array_to_string(tags, E'\n') IS NOT NFC NORMALIZED
       OR metadata::text IS NOT NFC NORMALIZED)
ORDER BY doc_id
FOR UPDATE;

-- name: normalize_document
-- The document is another version then. A microsecond is nothing to filters by time.
UPDATE documents
SET title = $3, file_path = $4, file_type = $5, author = $6, tags = $7, metadata = $8,
    updated_at = updated_at + interval '1 microsecond'
WHERE bot_id = $1 AND doc_id = $2;

-- name: mark_normalized
UPDATE bot_registry SET unicode_normalized = true WHERE bot_id = $1;

-- name: orphaned_partitions
SELECT c.relname::text AS partition_name
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent IN ('documents'::regclass, 'document_chunks'::regclass)
  AND c.relname NOT IN (SELECT bot_partition_name('documents', bot_id) FROM bot_registry
                        UNION ALL
                        SELECT bot_partition_name('document_chunks', bot_id) FROM bot_registry);

-- name: foreign_partitions
-- Partitions that the role which drops them may not drop.
SELECT c.relname::text AS partition_name, c.relowner::regrole::text AS owner, p.proowner::regrole::text AS dropped_by
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
JOIN pg_proc p ON p.oid = 'drop_bot_partitions'::regproc
WHERE i.inhparent IN ('documents'::regclass, 'document_chunks'::regclass)
  AND NOT pg_has_role(p.proowner, c.relowner, 'USAGE')
ORDER BY c.relname;

-- name: expired_sagas
SELECT generation, operation, bot_id, lease_until FROM sagas WHERE lease_until < now() - $1::interval;

-- name: backlog
SELECT (SELECT count(*) FROM sagas)                             AS sagas,
       (SELECT count(*) FROM sagas WHERE lease_until < now())   AS expired_sagas,
       (SELECT count(*) FROM vector_gc)                         AS vector_gc,
       (SELECT coalesce(extract(epoch FROM now() - min(next_attempt_at)), 0) FROM vector_gc
        WHERE next_attempt_at < now())::float8                  AS overdue_seconds;

-- name: ping
SELECT 1;
