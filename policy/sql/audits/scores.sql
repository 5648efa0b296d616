-- What was measured on the pictures, by which scorer, and how are the numbers spread?
SELECT name, model_digest, count(DISTINCT content_sha256) AS pictures,
    count(*) FILTER (value IS NULL OR isnan(value)) AS not_told,
    round(quantile_cont(value, 0.05) FILTER (NOT isnan(value)), 4) AS lowest_twentieth,
    round(median(value) FILTER (NOT isnan(value)), 4) AS median,
    round(quantile_cont(value, 0.95) FILTER (NOT isnan(value)), 4) AS highest_twentieth,
    min(observed_at) AS first_measured, max(observed_at) AS last_measured
FROM (
    SELECT * FROM score
    WHERE content_sha256 IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY content_sha256, name, model_digest ORDER BY batch_seq DESC, row_no DESC
    ) = 1
)
GROUP BY name, model_digest
ORDER BY name, last_measured DESC;
