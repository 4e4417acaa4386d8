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
