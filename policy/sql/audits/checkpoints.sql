-- Which checkpoints are there, of which run and dataset, and are they exact or tainted?
SELECT checkpoint.checkpoint, checkpoint.run, run.kind, checkpoint.step, checkpoint.positions, run.dataset,
    checkpoint.dataset_root, checkpoint.state, checkpoint.path, checkpoint.saved_at
FROM checkpoint
LEFT JOIN run ON run.run = checkpoint.run
ORDER BY checkpoint.saved_at, checkpoint.step;
