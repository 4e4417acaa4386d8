-- The least confidence of results in searches of the bot that name none. NULL: results are not cut.
ALTER TABLE bot_registry
    ADD COLUMN default_min_confidence double precision CHECK (default_min_confidence BETWEEN 0 AND 1);
