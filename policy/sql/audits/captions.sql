-- Where do the captions come from, how well do they fit, and how many are kept?
SELECT caption_origin, source_kind, model_name, model_run, state, count(*) AS captions,
    round(min(score), 3) AS lowest_score, round(median(score), 3) AS median_score, max(threshold) AS threshold
FROM caption
WHERE sample_key IS NOT NULL
GROUP BY ALL
ORDER BY captions DESC, caption_origin, state;
