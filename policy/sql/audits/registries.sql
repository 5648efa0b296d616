-- Which lists were imported, of what date and age (at the snapshot), which of each name counts, and whom does it deny?
WITH matched AS (
    SELECT where_found, count(*) AS pairs
    FROM latest_decision
    WHERE rule = 'registry' AND reason_code = 'registry-listed'
    GROUP BY where_found
)
SELECT registry.name, registry.kind, registry.row_count, registry.dated_at,
    date_diff('day', registry.dated_at, published_at) AS age_days, registry.max_age_days,
    registry.imported_at,
    CASE
        WHEN lead(registry.name) OVER imports IS NOT NULL THEN 'replaced'
        WHEN registry.dated_at + to_days(registry.max_age_days) < published_at THEN 'overdue'
        ELSE 'ok'
    END AS state,
    CASE WHEN state = 'replaced' THEN 0 ELSE coalesce(matched.pairs, 0) END AS pairs_denied,
    registry.sha256
FROM registry
CROSS JOIN snapshot
LEFT JOIN matched ON matched.where_found = 'list ' || registry.name
WINDOW imports AS (PARTITION BY registry.name ORDER BY registry.batch_seq, registry.row_no)
ORDER BY registry.name, registry.batch_seq, registry.row_no;
