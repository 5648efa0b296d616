-- What did each rule say last of each pair?
-- Erased rows have no pair_key any more and are nobody's decision.
CREATE OR REPLACE VIEW latest_decision AS
SELECT
    pair_key, rule, rule_version, verdict, reason_code, reason_detail, where_found, evidence_id, ruleset_digest,
    decide_id, decided_at, batch_seq, row_no
FROM decision
WHERE pair_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pair_key, rule ORDER BY batch_seq DESC, row_no DESC) = 1;
