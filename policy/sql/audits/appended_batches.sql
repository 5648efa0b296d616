-- What was appended, when, and how is it chained?
SELECT seq, table_name, idempotency_key, row_count, appended_at, rows_digest, previous, chain
FROM batch
ORDER BY seq;
