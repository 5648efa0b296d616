-- Which datasets were sealed, for which purpose, and in which generation are they stored now?
SELECT dataset.dataset, dataset.root, dataset.slots, dataset.purpose, dataset.ruleset_digest, dataset.parent,
    max(generation.generation) AS generation, dataset.sealed_at
FROM dataset
LEFT JOIN generation ON generation.dataset = dataset.dataset
GROUP BY ALL
ORDER BY dataset.sealed_at, dataset.dataset;
