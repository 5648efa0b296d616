-- Why are pairs kept out: how many stand deny or defer, by the rule and reason that decides?
SELECT verdict, rule, reason_code, count(*) AS pairs, min(since) AS earliest, max(since) AS latest
FROM standing
WHERE verdict <> 'allow'
GROUP BY verdict, rule, reason_code
ORDER BY pairs DESC, verdict, rule, reason_code;
