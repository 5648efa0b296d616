-- Under which licences are the samples of each dataset, and how many of them?
SELECT dataset, coalesce(licence, '(none recorded)') AS licence, count(*) AS samples,
    count(*) FILTER (erased_by IS NOT NULL) AS erased
FROM slot
GROUP BY ALL
ORDER BY dataset, samples DESC, licence;
