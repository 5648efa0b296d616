-- What is known of a removal beside the request itself: who controls what it names, what reviewers said, what was done
-- for it, and what became of models. Nothing but these rows (and the events) goes into its receipt.
CREATE TABLE removal_proof (  -- method: well-known, dns or operator; outcome: asked, proven or failed
    removal VARCHAR, method VARCHAR, domain VARCHAR, outcome VARCHAR, detail VARCHAR, checked_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE removal_review (  -- one row a reviewer's answer; which matches it was about: removal_match, by its state
    removal VARCHAR, verdict VARCHAR, matches BIGINT, by_whom VARCHAR, reason VARCHAR, reviewed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE removal_step (  -- what was done, to what, and how that stood before and after; no personal data
    removal VARCHAR, part VARCHAR, action VARCHAR, subject VARCHAR, before_json VARCHAR, after_json VARCHAR,
    done_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE withdrawal (  -- a checkpoint that may be used no more; replaced_by: the one that took its place
    checkpoint VARCHAR, run VARCHAR, removal VARCHAR, tier VARCHAR, action VARCHAR, replaced_by VARCHAR,
    detail VARCHAR, withdrawn_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE notice (  -- what the recipient of an export was to be told, and where that was written
    removal VARCHAR, export VARCHAR, checkpoint VARCHAR, path VARCHAR, sha256 VARCHAR, noticed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE receipt (
    removal VARCHAR, sha256 VARCHAR, path VARCHAR, chain_seq BIGINT, chain VARCHAR, issued_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
