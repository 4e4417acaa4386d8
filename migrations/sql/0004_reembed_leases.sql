-- Which process moves a bot to another model. A row, and not a lock of a session: behind a pooler there is no session.
CREATE TABLE reembed_leases (
    bot_id      uuid PRIMARY KEY,
    lease_token uuid NOT NULL,
    -- Renewed while the process lives; afterwards another may take over.
    lease_until timestamptz NOT NULL
);
