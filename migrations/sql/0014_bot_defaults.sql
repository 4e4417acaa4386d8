-- What a search of the bot uses for options that it does not name. NULL: the server's default.
ALTER TABLE bot_registry
    ADD COLUMN default_mode text CHECK (default_mode IN ('dense', 'lexical', 'hybrid')),
    ADD COLUMN default_dense_weight double precision CHECK (default_dense_weight BETWEEN 0 AND 1);
