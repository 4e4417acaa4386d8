-- Three roles in place of one: the owner of the tables, who alone changes the schema; the server's; and one that may
-- only register bots. Run it after the first `python -m app.cli migrate`, as a superuser, and again at will:
--
--     psql -d rag_db_chatty -f migrations/roles.sql
--     psql -d rag_db_chatty -v owner=o -v server=s -v registrar=r -v schema=public -f migrations/roles.sql
--
-- From then on `migrate` runs with POSTGRES_USER=chat_owner, the server with POSTGRES_USER=chat_server. Passwords are set
-- afterwards: \password chat_server

\set ON_ERROR_STOP on
\if :{?owner}     \else \set owner chat_owner         \endif
\if :{?server}    \else \set server chat_server       \endif
\if :{?registrar} \else \set registrar chat_registrar \endif
\if :{?schema}    \else \set schema public            \endif
BEGIN;

SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY[:'owner', :'server', :'registrar']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

GRANT CONNECT ON DATABASE :"DBNAME" TO :"owner", :"server", :"registrar";
GRANT CREATE, USAGE ON SCHEMA :"schema" TO :"owner";
GRANT USAGE ON SCHEMA :"schema" TO :"server", :"registrar";

-- The owner gets what the role that made bot_registry made in this schema, partitions included.
SELECT format('ALTER %s %s OWNER TO %I',
              CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass, :'owner')
FROM pg_class c
JOIN pg_class r ON r.oid = format('%I.bot_registry', :'schema')::regclass
WHERE c.relnamespace = r.relnamespace AND c.relowner = r.relowner AND c.relkind IN ('r', 'p', 'v', 'S')
  AND c.relowner <> :'owner'::regrole \gexec
SELECT format('ALTER FUNCTION %s OWNER TO %I', p.oid::regprocedure, :'owner')
FROM pg_proc p
WHERE p.pronamespace = :'schema'::regnamespace AND p.proowner <> :'owner'::regrole
  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
  AND p.proname IN ('bot_partition_name', 'make_bot_partitions', 'create_bot_partitions', 'drop_bot_partitions',
                    'nfc_array', 'nfc_jsonb') \gexec

-- The server reads and writes rows, and has partitions made and dropped by the owner's functions.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA :"schema" TO :"server";
GRANT SELECT, USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA :"schema" TO :"server";
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA :"schema" TO :"server";
-- Of what later migrations make, too.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"server";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT SELECT, USAGE, UPDATE ON SEQUENCES TO :"server";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT EXECUTE ON FUNCTIONS TO :"server";

-- The trigger makes the partitions, with the owner's rights.
GRANT INSERT, SELECT ON :"schema".bot_registry TO :"registrar";

-- A schema that has a role's name would be looked at first.
ALTER ROLE :"owner" IN DATABASE :"DBNAME" SET search_path = :"schema";
ALTER ROLE :"server" IN DATABASE :"DBNAME" SET search_path = :"schema";
ALTER ROLE :"registrar" IN DATABASE :"DBNAME" SET search_path = :"schema";

-- What a pooler does not pass on. With POSTGRES_TIMEOUT above 10 s, statement_timeout is one and a half times as long.
ALTER ROLE :"server" IN DATABASE :"DBNAME" SET jit = off;
ALTER ROLE :"server" IN DATABASE :"DBNAME" SET enable_memoize = off;
ALTER ROLE :"server" IN DATABASE :"DBNAME" SET statement_timeout = 15000;
ALTER ROLE :"server" IN DATABASE :"DBNAME" SET lock_timeout = 5000;
ALTER ROLE :"server" IN DATABASE :"DBNAME" SET idle_in_transaction_session_timeout = 20000;
COMMIT;
