-- Which samples does a dataset hold, slot by slot, with caption, licence and source, and what does each stand for ($dataset)?
SELECT slot.ordinal, slot.sample_key, slot.content_sha256, slot.caption, slot.caption_origin, slot.licence,
    seen.page_url, seen.image_url, slot.erased_by,
    coalesce(shown.pairs, 0) AS occurrences, coalesce(near.pictures, 0) AS near_duplicates
FROM slot
LEFT JOIN (
    SELECT pair_key, page_url, image_url FROM occurrence WHERE pair_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
) AS seen ON seen.pair_key = slot.pair_key
LEFT JOIN (  -- pairs that show the same bytes, by now
    SELECT content_sha256, count(DISTINCT pair_key) AS pairs FROM evidence
    WHERE pair_key IS NOT NULL AND content_sha256 IS NOT NULL GROUP BY content_sha256
) AS shown ON shown.content_sha256 = slot.content_sha256
LEFT JOIN (  -- other pictures for which it stands, by now
    SELECT representative_sha256, count(*) AS pictures FROM (
        SELECT content_sha256, representative_sha256 FROM duplicate
        WHERE content_sha256 IS NOT NULL AND representative_sha256 IS NOT NULL AND verified
        QUALIFY row_number() OVER (PARTITION BY content_sha256 ORDER BY batch_seq DESC, row_no DESC) = 1
    ) WHERE content_sha256 <> representative_sha256 GROUP BY representative_sha256
) AS near ON near.representative_sha256 = slot.content_sha256
WHERE slot.dataset = CAST($dataset AS VARCHAR)
ORDER BY slot.ordinal;
