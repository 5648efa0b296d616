-- Which samples may be sealed and trained on?
-- One row a sample_key: its newest caption row is 'kept', the pair stands 'allow', the pair's image still has the bytes
-- that were captioned, and no occurrence of equal bytes is denied. When several pairs share a sample the smallest
-- pair_key stands for it. Tombstones exclude through the rule 'tombstone'; stages ask the tombstone file as well.
-- `licence` is the SPDX id that the rule 'licence' gave with its last 'allow', NULL where it gave none.
-- Erased rows have NULL for every key: they are never joined and never counted.
CREATE OR REPLACE VIEW trainable AS
WITH kept AS (  -- withdrawn once for any pair is withdrawn for the sample
    SELECT sample_key, pair_key, content_sha256, caption, caption_origin, model_run, score
    FROM (
        SELECT *, last_value(state) OVER (
            PARTITION BY sample_key ORDER BY batch_seq, row_no
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
        ) AS sample_state
        FROM caption
        WHERE sample_key IS NOT NULL AND pair_key IS NOT NULL AND content_sha256 IS NOT NULL AND caption IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY sample_key, pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
    )
    WHERE state = 'kept' AND sample_state = 'kept'
),
seen AS (
    SELECT pair_key, page_url, image_url, url_key
    FROM occurrence
    WHERE pair_key IS NOT NULL AND url_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
),
measured AS (
    SELECT url_key, content_sha256, width, height, face_count
    FROM content
    WHERE url_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY url_key ORDER BY batch_seq DESC, row_no DESC) = 1
),
licensed AS (
    SELECT pair_key, reason_detail AS licence
    FROM latest_decision
    WHERE rule = 'licence' AND verdict = 'allow'
)
SELECT
    kept.sample_key,
    kept.pair_key,
    seen.page_url,
    seen.image_url,
    kept.content_sha256,
    kept.caption,
    kept.caption_origin,
    kept.model_run AS caption_run,
    licensed.licence,
    measured.width,
    measured.height,
    measured.face_count,
    kept.score
FROM kept
JOIN seen ON seen.pair_key = kept.pair_key
JOIN measured ON measured.url_key = seen.url_key AND measured.content_sha256 = kept.content_sha256
JOIN standing ON standing.pair_key = kept.pair_key AND standing.verdict = 'allow'
LEFT JOIN licensed ON licensed.pair_key = kept.pair_key
ANTI JOIN (SELECT content_sha256 FROM standing_content WHERE denied) AS denied
    ON denied.content_sha256 = kept.content_sha256
QUALIFY row_number() OVER (PARTITION BY kept.sample_key ORDER BY kept.pair_key) = 1;
