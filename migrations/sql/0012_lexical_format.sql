-- How the words of a bot's collection are made: the version of the analyzer, and whether the title of its document is in
-- the lexical field of each chunk. They change only together with the collection. The defaults are for bots of earlier
-- servers, and for those that an earlier server makes while it still runs.
ALTER TABLE bot_registry
    ADD COLUMN analyzer_version smallint NOT NULL DEFAULT 1,
    ADD COLUMN title_in_lexical boolean NOT NULL DEFAULT false,
    -- Those of next_collection. NULL: it was begun by an earlier server.
    ADD COLUMN next_analyzer_version smallint,
    ADD COLUMN next_title_in_lexical boolean;
