-- Which pictures stand for near duplicates of theirs, by which match, and is any of them trained on?
WITH newest AS (
    SELECT content_sha256, representative_sha256, method, distance, verified
    FROM duplicate
    WHERE content_sha256 IS NOT NULL AND representative_sha256 IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
),
used AS (SELECT DISTINCT content_sha256 FROM trainable)
SELECT representative_sha256, newest.method, count(*) AS stands_for,
    round(max(distance), 3) AS farthest, bool_and(verified) AS all_verified,
    representative_sha256 IN (SELECT content_sha256 FROM used) AS representative_is_trainable,
    count(*) FILTER (content_sha256 IN (SELECT content_sha256 FROM used)) AS of_these_trainable
FROM newest
WHERE content_sha256 <> representative_sha256
GROUP BY representative_sha256, newest.method
ORDER BY stands_for DESC, representative_sha256;
