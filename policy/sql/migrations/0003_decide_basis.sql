-- What a decide run rested on beside the ruleset: the versions of its rules, its time, and the lists, grants and
-- tombstones that it asked. The next run judges anew only what any of it, or newer evidence, may have changed.
ALTER TABLE confirmation ADD COLUMN basis_json VARCHAR;
