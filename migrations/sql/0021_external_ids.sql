-- The name that a document's owner has for it, unique within its bot. Only documents and writes that have one are in
-- the indexes. A key of an index may have 2,704 bytes: an external_id has at most 512 characters, of 4 bytes at most.
ALTER TABLE documents ADD COLUMN external_id text;
CREATE UNIQUE INDEX documents_external_id ON documents (bot_id, external_id) WHERE external_id IS NOT NULL;

-- A write holds the external_id of its document until it has ended: no two write the same one at a time.
ALTER TABLE sagas ADD COLUMN external_id text;
CREATE UNIQUE INDEX sagas_external_id ON sagas (bot_id, external_id) WHERE external_id IS NOT NULL;
