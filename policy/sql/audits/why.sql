-- Why is this pair in or out: what did each rule say, when, and on which evidence ($pair_key)?
SELECT rule, verdict, reason_code, reason_detail, where_found, evidence_id, ruleset_digest, decided_at
FROM decision
WHERE pair_key = CAST($pair_key AS VARCHAR)
ORDER BY batch_seq DESC, row_no;
