-- Which decisions stand without stored evidence or without a known ruleset? (must be empty)
SELECT decision.batch_seq, decision.row_no, decision.pair_key, decision.rule, decision.verdict,
    decision.evidence_id, decision.ruleset_digest, evidence.evidence_id IS NULL AS evidence_missing,
    ruleset.digest IS NULL AS ruleset_missing
FROM decision
LEFT JOIN (SELECT DISTINCT evidence_id FROM evidence) AS evidence ON evidence.evidence_id = decision.evidence_id
LEFT JOIN (SELECT DISTINCT digest FROM ruleset) AS ruleset ON ruleset.digest = decision.ruleset_digest
WHERE decision.erased_by IS NULL AND (evidence.evidence_id IS NULL OR ruleset.digest IS NULL)
ORDER BY decision.batch_seq, decision.row_no;
