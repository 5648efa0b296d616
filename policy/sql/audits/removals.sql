-- Which removal requests are there, where does each stand, until when, and how much did it concern?
SELECT removal.removal, removal.kind, removal.regime, removal.named_kind, stands.state, removal.received_at,
    removal.due_at, coalesce(matched.matches, 0) AS matches, coalesce(erased.rows_erased, 0) AS rows_erased
FROM removal
LEFT JOIN (
    SELECT removal, state FROM removal_event WHERE state NOT IN ('extended', 'escalated')
    QUALIFY row_number() OVER (PARTITION BY removal ORDER BY batch_seq DESC, row_no DESC) = 1
) AS stands ON stands.removal = removal.removal
LEFT JOIN (SELECT removal, count(*) AS matches FROM removal_match GROUP BY removal) AS matched
    ON matched.removal = removal.removal
LEFT JOIN (SELECT removal, sum(row_count) AS rows_erased FROM erasure GROUP BY removal) AS erased
    ON erased.removal = removal.removal
ORDER BY removal.received_at, removal.removal;
