-- What does each removal take out once it is approved?
-- Of each match the newest state counts: exact ones are taken unless a reviewer rejected them, others only where one
-- approved them. Erased rows have no key any more and are nobody's match.
CREATE OR REPLACE VIEW removal_taken AS
SELECT removal, pair_key, url_key, content_sha256, sample_key, method, score
FROM removal_match
WHERE coalesce(pair_key, url_key, content_sha256, sample_key) IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY removal, pair_key, url_key, content_sha256, sample_key ORDER BY batch_seq DESC, row_no DESC
) = 1 AND state IN ('matched', 'approved');
