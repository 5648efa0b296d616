-- What stands of each pair now, and by which rule?
-- The worst of what each rule said last: deny, then defer, then allow; 'unset' is neutral (asked, and nothing said),
-- so a pair of which every rule says 'unset' stands 'allow', as verdict.combine has it. A word that is none counts as
-- deny. Of several equally bad the earliest decides, so that `since` is when the standing verdict began.
--
-- Seven million decisions are grouped by integers only: (batch_seq, row_no) is packed into one position, the rank of
-- the verdict into its two low bits; the texts are fetched for the deciding rows alone. Room for 2^27 batches.
CREATE OR REPLACE VIEW standing AS
WITH latest AS (
    SELECT
        pair_key,
        rule,
        max(((batch_seq << 31) | row_no) * 4
            + CASE verdict WHEN 'unset' THEN 0 WHEN 'allow' THEN 1 WHEN 'defer' THEN 2 ELSE 3 END) AS packed
    FROM decision
    WHERE pair_key IS NOT NULL
    GROUP BY pair_key, rule
),
worst AS (
    SELECT pair_key, max(((packed & 3) << 61) - (packed >> 2)) AS packed
    FROM latest
    GROUP BY pair_key
),
deciding AS (
    SELECT pair_key, (packed + (1::BIGINT << 61) - 1) >> 61 AS rank, packed
    FROM worst
),
placed AS (
    SELECT pair_key, rank, (rank << 61) - packed AS position
    FROM deciding
)
SELECT
    placed.pair_key,
    CASE placed.rank WHEN 0 THEN 'allow' WHEN 1 THEN 'allow' WHEN 2 THEN 'defer' ELSE 'deny' END AS verdict,
    decision.rule,
    decision.reason_code,
    decision.reason_detail,
    decision.evidence_id,
    decision.ruleset_digest,
    decision.decided_at AS since
FROM placed
JOIN decision ON ((decision.batch_seq << 31) | decision.row_no) = placed.position;
