-- Generations that this database may have lost by a restore, from the one and below the other: rows that Milvus has of
-- them are nobody's, and a count of rows takes them for those that a restore brought back without vectors. NULL: none.
ALTER TABLE index_checks ADD COLUMN lost_from bigint, ADD COLUMN lost_below bigint;
