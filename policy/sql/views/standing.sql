-- What stands of each pair now, by which rule, since when?
-- The worst of what each rule said last: deny, then defer, then allow; 'unset' is neutral (asked, and nothing said),
-- so a pair of which every rule says 'unset' stands 'allow', as verdict.combine has it. A word that is none counts as
-- deny. Of several that defer one that saw a reason decides before one that saw nothing: of a near duplicate nobody
-- asks what it shows, and that it is one is why. Of equals the earliest decides. `since` is when the standing verdict
-- began, whichever rule was the first to say it.
--
-- Seven million decisions are grouped by integers only: (batch_seq, row_no) is packed into one position, the rank of
-- the verdict into its three low bits; the texts are fetched for the deciding rows alone. Room for 2^27 batches.
-- Ranks: 0 unset, 1 allow, 2 defer for want of an observation, 3 defer, 4 deny.
CREATE OR REPLACE VIEW standing AS
WITH latest AS (
    SELECT
        pair_key,
        rule,
        max(((batch_seq << 31) | row_no) * 8
            + CASE verdict
                WHEN 'unset' THEN 0
                WHEN 'allow' THEN 1
                WHEN 'defer' THEN CASE reason_code WHEN 'not-observed' THEN 2 ELSE 3 END
                ELSE 4
            END) AS packed
    FROM decision
    WHERE pair_key IS NOT NULL
    GROUP BY pair_key, rule
),
worst AS (
    SELECT
        pair_key,
        max(((packed & 7) << 60) - (packed >> 3)) AS packed,
        -- The same where one way to defer is as good as the other: the first of these is the one that began it.
        max((greatest(packed & 7, CASE packed & 7 WHEN 2 THEN 3 ELSE 0 END) << 60) - (packed >> 3)) AS packed_first
    FROM latest
    GROUP BY pair_key
),
placed AS (
    SELECT
        pair_key,
        (packed + (1::BIGINT << 60) - 1) >> 60 AS rank,
        (((packed + (1::BIGINT << 60) - 1) >> 60) << 60) - packed AS position,
        (((packed_first + (1::BIGINT << 60) - 1) >> 60) << 60) - packed_first AS position_first
    FROM worst
)
SELECT
    placed.pair_key,
    CASE placed.rank
        WHEN 0 THEN 'allow' WHEN 1 THEN 'allow' WHEN 2 THEN 'defer' WHEN 3 THEN 'defer' ELSE 'deny'
    END AS verdict,
    decision.rule,
    decision.reason_code,
    decision.reason_detail,
    decision.evidence_id,
    decision.ruleset_digest,
    coalesce(began.decided_at, decision.decided_at) AS since
FROM placed
JOIN decision ON ((decision.batch_seq << 31) | decision.row_no) = placed.position
LEFT JOIN decision AS began
    ON ((began.batch_seq << 31) | began.row_no) = nullif(placed.position_first, placed.position);
