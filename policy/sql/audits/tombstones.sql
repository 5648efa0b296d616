-- What may never come back: how many tombstones of each kind, for which removal, since when?
SELECT removal, kind, key_id, count(*) AS tombstones, max(epoch) AS epoch, min(in_force_at) AS in_force_at
FROM tombstone
GROUP BY removal, kind, key_id
ORDER BY in_force_at, removal, kind;
