-- Is anything in a shard that stands deny or defer, or that nobody decided? (must be empty)
-- A slot that was erased has no keys any more; one that a tombstone empties is out of use, though its row remains.
SELECT slot.dataset, slot.ordinal, slot.sample_key, slot.pair_key,
    coalesce(standing.verdict, CASE WHEN denied.denied THEN 'deny' ELSE 'undecided' END) AS verdict,
    standing.rule, standing.reason_code, coalesce(denied.denied, false) AS denied_through_equal_bytes
FROM slot
LEFT JOIN standing ON standing.pair_key = slot.pair_key
LEFT JOIN standing_content AS denied ON denied.content_sha256 = slot.content_sha256
ANTI JOIN tombstone ON tombstone.kind = 'slot' AND tombstone.token = slot.dataset || ':' || slot.ordinal
WHERE slot.erased_by IS NULL
    AND (standing.verdict IS DISTINCT FROM 'allow' OR coalesce(denied.denied, false))
ORDER BY slot.dataset, slot.ordinal;
