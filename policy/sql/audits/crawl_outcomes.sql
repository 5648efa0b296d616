-- How did asking end, by kind and outcome: the newest answer of every URL, and which may be different tomorrow?
WITH newest AS (
    SELECT kind, outcome, started_at FROM "fetch" WHERE url_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY kind, url_key ORDER BY batch_seq DESC, row_no DESC) = 1
)
SELECT kind, outcome, count(*) AS urls, min(started_at) AS oldest, max(started_at) AS newest,
    outcome IN ('dns', 'connect', 'reset', 'timeout', 'truncated', 'origin-down', 'http-408', 'http-425', 'http-429')
        OR outcome LIKE 'http-5__' AS transient
FROM newest
GROUP BY kind, outcome
ORDER BY kind, urls DESC, outcome;
