-- Which samples does a dataset hold, slot by slot, with caption, licence and source ($dataset)?
SELECT slot.ordinal, slot.sample_key, slot.content_sha256, slot.caption, slot.caption_origin, slot.licence,
    seen.page_url, seen.image_url, slot.erased_by
FROM slot
LEFT JOIN (
    SELECT pair_key, page_url, image_url FROM occurrence WHERE pair_key IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY pair_key ORDER BY batch_seq DESC, row_no DESC) = 1
) AS seen ON seen.pair_key = slot.pair_key
WHERE slot.dataset = CAST($dataset AS VARCHAR)
ORDER BY slot.ordinal;
