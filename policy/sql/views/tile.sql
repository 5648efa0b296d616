-- What is there to be seen of each pair: its picture, text, measures and verdict, in one row?
-- What a contact sheet shows, and the place to ask for pictures by their measures: scores['nsfw'] > 0.3.
-- `caption` is the text the pair is trained with: the newest that was kept, else what its page said.
-- A score is the newest of its name, of whichever model.
CREATE OR REPLACE VIEW tile AS
WITH seen AS (
    SELECT pair_key, page_url, image_url, url_key, alt, text_origin
    FROM occurrence
    WHERE pair_key IS NOT NULL AND url_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
),
observed AS (
    SELECT pair_key, content_sha256
    FROM evidence
    WHERE pair_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
),
measured AS (
    SELECT content_sha256, media_type, width, height, size_bytes, pdq, pdq_quality, faces_json, face_count, face_detector
    FROM content
    WHERE content_sha256 IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
),
texts AS (
    SELECT pair_key, content_sha256, sample_key, caption, caption_origin, score, threshold, state, model_name
    FROM (
        SELECT *
        FROM caption
        WHERE pair_key IS NOT NULL AND content_sha256 IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY sample_key, pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
    )
    WHERE state <> 'withdrawn'
    QUALIFY row_number() OVER (
        PARTITION BY pair_key, content_sha256 ORDER BY state = 'kept' DESC, batch_seq DESC, row_no DESC
    ) = 1
),
scored AS (
    SELECT content_sha256, map_from_entries(list((name, value) ORDER BY name)) AS scores
    FROM (
        SELECT content_sha256, name, value
        FROM score
        WHERE content_sha256 IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY content_sha256, name ORDER BY batch_seq DESC, row_no DESC) = 1
    )
    WHERE value IS NOT NULL  -- of pixels that are kept no more
    GROUP BY content_sha256
),
licensed AS (
    SELECT pair_key, reason_detail AS licence
    FROM latest_decision
    WHERE rule = 'licence' AND verdict = 'allow'
)
SELECT
    seen.pair_key,
    observed.content_sha256,
    texts.sample_key,
    seen.page_url,
    seen.image_url,
    seen.alt,
    seen.text_origin,
    coalesce(texts.caption, seen.alt) AS caption,
    coalesce(texts.caption_origin, seen.text_origin) AS caption_origin,
    texts.score AS caption_score,
    texts.threshold AS caption_threshold,
    texts.state AS caption_state,
    texts.model_name AS caption_model,
    standing.verdict,
    standing.rule,
    standing.reason_code,
    standing.reason_detail,
    licensed.licence,
    measured.media_type,
    measured.width,
    measured.height,
    measured.size_bytes,
    measured.pdq,
    measured.pdq_quality,
    measured.faces_json,
    measured.face_count,
    measured.face_detector,
    scored.scores
FROM seen
JOIN observed USING (pair_key)
LEFT JOIN measured ON measured.content_sha256 = observed.content_sha256
LEFT JOIN texts ON texts.pair_key = seen.pair_key AND texts.content_sha256 = observed.content_sha256
LEFT JOIN scored ON scored.content_sha256 = observed.content_sha256
LEFT JOIN standing ON standing.pair_key = seen.pair_key
LEFT JOIN licensed ON licensed.pair_key = seen.pair_key;
