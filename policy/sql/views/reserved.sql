-- Which noes of a source, observed by a recheck, are in force?
-- A reservation ends new use from the day it was observed; the same source's taking it back lifts it. What keeps the
-- pair out is the decision of the same rule; this says since when, and that it was let in before.
CREATE OR REPLACE VIEW reserved AS
SELECT pair_key, url_key, mechanism, reason_code, evidence_id, observed_at AS since
FROM reservation
WHERE pair_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY pair_key, mechanism ORDER BY batch_seq DESC, row_no DESC) = 1
    AND state = 'reserved';
