-- How revocable a dataset's slots are, as ranges [class, first ordinal, first ordinal behind]: what its manifest says.
-- NULL: sealed before slots had classes, when `slot.revocability` was 0 for all of them and said nothing.
ALTER TABLE dataset ADD COLUMN classes_json VARCHAR;
