-- What was erased, for which removal, and was that removal approved?
SELECT erasure.removal, erasure.table_name, sum(erasure.row_count) AS rows_erased, max(erasure.erased_at) AS erased_at,
    erasure.removal IN (
        SELECT removal FROM removal_event WHERE state = 'approved' AND removal IS NOT NULL
    ) AS approved
FROM erasure
GROUP BY ALL
ORDER BY erased_at, erasure.removal, erasure.table_name;
