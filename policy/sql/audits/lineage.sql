-- What does a checkpoint stand on: its lineage's runs, segments, schedules and upstream models ($checkpoint)?
-- Which samples it was fed is arithmetic over these rows (order_key, first_position, phases): `custody audit exposure`.
WITH RECURSIVE lineage AS (
    SELECT 0 AS generations_back, * FROM checkpoint WHERE checkpoint = CAST($checkpoint AS VARCHAR)
    UNION  -- not UNION ALL: a parent that is its own ancestor ends
    SELECT lineage.generations_back + 1, parent.*
    FROM lineage JOIN run ON run.run = lineage.run
    JOIN checkpoint AS parent ON parent.checkpoint = coalesce(lineage.parent, run.parent_checkpoint)
    WHERE lineage.generations_back < 1000
)
SELECT lineage.generations_back, lineage.checkpoint, lineage.run, lineage.step, lineage.positions,
    segment.segment, segment.dataset, segment.dataset_root, segment.slots, segment.order_version, segment.order_key,
    segment.first_position, segment.batch_size, segment.phases_json, lineage.schedule_json, lineage.upstream_json
FROM lineage
LEFT JOIN segment ON segment.run = lineage.run AND segment.segment <= lineage.segment
ORDER BY lineage.generations_back, segment.segment;
