-- Whose vectors they were: a search that comes upon one asks for the document's current chunks.
-- NULL in rows of an older server.
ALTER TABLE vector_gc ADD COLUMN doc_id bigint;
