-- Under which rulesets was decided, from when to when, and what did each decide?
SELECT ruleset.digest, min(ruleset.first_used_at) AS first_used_at, max(decided.latest) AS last_decision_at,
    coalesce(max(decided.decisions), 0) AS decisions, coalesce(max(decided.denials), 0) AS denials,
    coalesce(max(decided.deferrals), 0) AS deferrals
FROM ruleset
LEFT JOIN (
    SELECT ruleset_digest, count(*) AS decisions, count(*) FILTER (verdict = 'deny') AS denials,
        count(*) FILTER (verdict = 'defer') AS deferrals, max(decided_at) AS latest
    FROM decision GROUP BY ruleset_digest
) AS decided ON decided.ruleset_digest = ruleset.digest
GROUP BY ruleset.digest
ORDER BY first_used_at, ruleset.digest;
