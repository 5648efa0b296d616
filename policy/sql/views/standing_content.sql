-- Which contents are denied, because some occurrence of equal bytes is?
-- A pair carries a content when the bytes were ever found under its image URL, or when its evidence or caption says
-- so. Bytes that a source has since replaced stay under its DENY: to let them go would be to guess.
CREATE OR REPLACE VIEW standing_content AS
WITH carried AS (
    SELECT occurrence.pair_key, content.content_sha256 FROM occurrence JOIN content USING (url_key)
    UNION
    SELECT pair_key, content_sha256 FROM evidence
    UNION
    SELECT pair_key, content_sha256 FROM caption
)
SELECT
    content_sha256,
    count(*) AS pairs,
    count(*) FILTER (standing.verdict = 'deny') AS denied_pairs,
    denied_pairs > 0 AS denied
FROM carried
LEFT JOIN standing USING (pair_key)
WHERE content_sha256 IS NOT NULL AND pair_key IS NOT NULL
GROUP BY content_sha256;
