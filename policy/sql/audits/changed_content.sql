-- Under which URLs do other bytes hang now than when they were first seen?
WITH seen AS (
    SELECT url_key, content_sha256, min(observed_at) AS first_seen, max(observed_at) AS last_seen,
        min((batch_seq << 31) | row_no) AS first_place, max((batch_seq << 31) | row_no) AS last_place
    FROM content
    WHERE url_key IS NOT NULL AND content_sha256 IS NOT NULL
    GROUP BY url_key, content_sha256
),
urls AS (SELECT url_key, any_value(image_url) AS url FROM occurrence WHERE url_key IS NOT NULL GROUP BY url_key)
SELECT urls.url, url_key, count(*) AS contents, arg_min(content_sha256, first_place) AS first_sha256,
    min(first_seen) AS first_seen, arg_max(content_sha256, last_place) AS sha256_now,
    max(last_seen) AS last_seen
FROM seen LEFT JOIN urls USING (url_key)
GROUP BY urls.url, url_key
HAVING count(*) > 1
ORDER BY last_seen DESC, url_key;
