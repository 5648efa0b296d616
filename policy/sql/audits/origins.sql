-- Which origins do the pairs come from, and how many of each stand allow, defer and deny?
SELECT regexp_extract(image_url, '^(https?://[^/?#]+)', 1) AS origin, count(*) AS pairs,
    count(*) FILTER (verdict = 'allow') AS allow, count(*) FILTER (verdict = 'defer') AS defer,
    count(*) FILTER (verdict = 'deny') AS deny, count(*) FILTER (verdict IS NULL) AS undecided
FROM (SELECT pair_key, any_value(image_url) AS image_url FROM occurrence WHERE pair_key IS NOT NULL GROUP BY pair_key)
LEFT JOIN standing USING (pair_key)
GROUP BY origin
ORDER BY pairs DESC, origin;
