-- Which pairs does a tombstone keep out, for which removal?
-- Tombstones are keyed tokens and SQL has no key: what shows here is what the rule 'tombstone' decided. A tombstone
-- that took force since then is in the tombstone file only, and every stage asks that file as well.
CREATE OR REPLACE VIEW tombstoned AS
SELECT pair_key, regexp_replace(reason_detail, '^removal ', '') AS removal, decided_at AS since
FROM latest_decision
WHERE rule = 'tombstone' AND verdict = 'deny';
