-- Which grants are there, is each still valid (at the snapshot), and which decisions rest on it, by rule?
WITH ended AS (
    SELECT consent, min(recorded_at) AS ended_at FROM consent WHERE state = 'ended' GROUP BY consent
),
resting AS (
    SELECT regexp_extract(reason_detail, 'grant-[0-9a-f]+') AS consent, rule, count(*) AS pairs,
        min(decided_at) AS since
    FROM latest_decision
    WHERE reason_code = 'granted'
    GROUP BY ALL
)
SELECT given.consent AS grant_id, given.capacity, given.scope_kind, given.scope, given.valid_from, given.valid_to,
    ended.ended_at,
    CASE
        WHEN ended.ended_at IS NOT NULL THEN 'ended'
        WHEN given.valid_to < published_at THEN 'expired'
        WHEN given.valid_from > published_at THEN 'future'
        ELSE 'valid'
    END AS state,
    resting.rule, coalesce(resting.pairs, 0) AS pairs, resting.since, given.document_sha256
FROM (SELECT * FROM consent WHERE state = 'given') AS given
CROSS JOIN snapshot
LEFT JOIN ended ON ended.consent = given.consent
FULL JOIN resting ON resting.consent = given.consent
ORDER BY given.recorded_at, grant_id, resting.rule;
