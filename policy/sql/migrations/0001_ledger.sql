-- The ledger's first schema: every table that the life of a sample touches, from the first request to the receipt.
--
-- All tables but schema_migration and batch are append-only and chained: each row carries the batch it came with,
-- its place in it, a random salt and a commitment over its personal columns (policy/personal.py lists those).
-- Erasing sets the personal columns and the salt to NULL and names the removal in erased_by; the commitment stays.
-- No PRIMARY KEY, no UNIQUE, no index: DuckDB's ART indexes have open corruption reports, and a short index scan
-- would be an opt-out silently ignored. Times are UTC.

CREATE TABLE schema_migration (version INTEGER, name VARCHAR, sha256 VARCHAR, applied_at TIMESTAMP);

CREATE TABLE batch (
    seq BIGINT, table_name VARCHAR, idempotency_key VARCHAR, row_count BIGINT,
    rows_digest VARCHAR, previous VARCHAR, chain VARCHAR, appended_at TIMESTAMP
);

-- ── what was observed ──────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE document (
    body_sha256 VARCHAR, body BLOB, media_type VARCHAR, size_bytes BIGINT,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE "fetch" (  -- (FETCH is a reserved word: quote it) one row a URL asked: page, image or origin document; hops_json holds every hop's headers
    url VARCHAR, url_key VARCHAR, kind VARCHAR, status INTEGER, outcome VARCHAR, final_url VARCHAR, hops_json VARCHAR,
    body_sha256 VARCHAR, size_bytes BIGINT, started_at TIMESTAMP, elapsed_ms DOUBLE, observer VARCHAR, unit_id VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE occurrence (  -- an image on a page with the text beside it
    pair_key VARCHAR, page_url VARCHAR, page_key VARCHAR, image_url VARCHAR, url_key VARCHAR, alt VARCHAR,
    text_origin VARCHAR, hints_json VARCHAR, unit_id VARCHAR, seen_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE content (  -- the bytes found under a URL and what was measured on them
    content_sha256 VARCHAR, url_key VARCHAR, media_type VARCHAR, width INTEGER, height INTEGER, size_bytes BIGINT,
    pdq VARCHAR, pdq_quality INTEGER, faces_json VARCHAR, face_count INTEGER, face_detector VARCHAR,
    unit_id VARCHAR, observed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE score (  -- one number a model gave a content: nsfw, clip agreement, blur, …
    content_sha256 VARCHAR, name VARCHAR, value DOUBLE, model_digest VARCHAR, observed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE duplicate (  -- a direct, verified match to a representative, never a transitive chain
    content_sha256 VARCHAR, representative_sha256 VARCHAR, method VARCHAR, distance DOUBLE, verified BOOLEAN,
    observed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE evidence (
    evidence_id VARCHAR, pair_key VARCHAR, content_sha256 VARCHAR, body_json VARCHAR, observed_at TIMESTAMP,
    observer VARCHAR, unit_id VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE caption (  -- every text a sample may be trained with: its alt text, or a caption found for it
    sample_key VARCHAR, pair_key VARCHAR, content_sha256 VARCHAR, caption VARCHAR, caption_origin VARCHAR,
    source VARCHAR, source_kind VARCHAR, model_name VARCHAR, model_digest VARCHAR, model_run VARCHAR,
    score DOUBLE, threshold DOUBLE, state VARCHAR, captioned_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);

-- ── what was decided ───────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE ruleset (
    digest VARCHAR, body VARCHAR, first_used_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE signal (  -- every statement found, not only the one that won
    pair_key VARCHAR, evidence_id VARCHAR, mechanism VARCHAR, stance VARCHAR, where_found VARCHAR, value VARCHAR,
    document_sha256 VARCHAR, decide_id VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE decision (  -- verdict: allow, defer, deny or unset (asked, and nothing said)
    pair_key VARCHAR, evidence_id VARCHAR, rule VARCHAR, rule_version INTEGER, verdict VARCHAR, reason_code VARCHAR,
    reason_detail VARCHAR, where_found VARCHAR, ruleset_digest VARCHAR, decide_id VARCHAR, decided_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE confirmation (  -- one row a decide run: how many pairs were judged anew and stayed as they were
    decide_id VARCHAR, ruleset_digest VARCHAR, judged BIGINT, unchanged BIGINT, changed BIGINT, decided_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE reservation (  -- a recheck that observed a "no"; lifted by a later yes of the same source
    pair_key VARCHAR, url_key VARCHAR, mechanism VARCHAR, reason_code VARCHAR, state VARCHAR, evidence_id VARCHAR,
    observed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE consent (  -- a grant: who gives it in which capacity, for what, covering which mechanisms, until when
    consent VARCHAR, giver VARCHAR, capacity VARCHAR, scope_kind VARCHAR, scope VARCHAR, mechanisms VARCHAR,
    valid_from TIMESTAMP, valid_to TIMESTAMP, document_sha256 VARCHAR, state VARCHAR, recorded_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE registry (
    name VARCHAR, kind VARCHAR, sha256 VARCHAR, row_count BIGINT, dated_at TIMESTAMP, max_age_days INTEGER,
    imported_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE registry_entry (
    name VARCHAR, kind VARCHAR, value VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);

-- ── what was sealed and learnt ─────────────────────────────────────────────────────────────────────────────────
CREATE TABLE dataset (
    dataset VARCHAR, root VARCHAR, slots BIGINT, selection VARCHAR, purpose VARCHAR, ruleset_digest VARCHAR,
    image_size INTEGER, parent VARCHAR, sealed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE slot (  -- commitment is the leaf of the dataset's Merkle root
    dataset VARCHAR, ordinal BIGINT, sample_key VARCHAR, content_sha256 VARCHAR, pair_key VARCHAR, caption VARCHAR,
    caption_origin VARCHAR, caption_run VARCHAR, licence VARCHAR, revocability INTEGER,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE attribution (
    dataset VARCHAR, ordinal BIGINT, title VARCHAR, creator VARCHAR, source_url VARCHAR, licence VARCHAR,
    licence_url VARCHAR, changes VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE generation (
    dataset VARCHAR, generation INTEGER, root VARCHAR, removal VARCHAR, sealed_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE shard (
    dataset VARCHAR, generation INTEGER, shard INTEGER, path VARCHAR, sha256 VARCHAR, size_bytes BIGINT,
    first_ordinal BIGINT, slots INTEGER, live INTEGER,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE run (
    run VARCHAR, kind VARCHAR, config_digest VARCHAR, config_json VARCHAR, code_version VARCHAR, dataset VARCHAR,
    dataset_root VARCHAR, seed BIGINT, upstream_json VARCHAR, record_json VARCHAR, parent_checkpoint VARCHAR,
    started_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE segment (
    run VARCHAR, segment INTEGER, dataset VARCHAR, dataset_root VARCHAR, slots BIGINT, order_version INTEGER,
    order_key VARCHAR, first_position BIGINT, batch_size INTEGER, phases_json VARCHAR, contract_json VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE checkpoint (
    checkpoint VARCHAR, run VARCHAR, segment INTEGER, step BIGINT, positions BIGINT, dataset_root VARCHAR,
    schedule_json VARCHAR, tally_json VARCHAR, files_json VARCHAR, parent VARCHAR, upstream_json VARCHAR,
    state VARCHAR, path VARCHAR, saved_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE export (
    export VARCHAR, checkpoint VARCHAR, path VARCHAR, recipient VARCHAR, files_json VARCHAR, exported_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);

-- ── what was taken out ─────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE removal (
    removal VARCHAR, kind VARCHAR, regime VARCHAR, named_kind VARCHAR, named_value VARCHAR, received_at TIMESTAMP,
    due_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE requester (  -- kept apart, encrypted, deletable
    removal VARCHAR, identity BLOB, key_id VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE removal_event (
    removal VARCHAR, state VARCHAR, by_whom VARCHAR, reason VARCHAR, happened_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE removal_match (
    removal VARCHAR, pair_key VARCHAR, url_key VARCHAR, content_sha256 VARCHAR, sample_key VARCHAR, method VARCHAR,
    score DOUBLE, state VARCHAR, matched_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE tombstone (
    removal VARCHAR, kind VARCHAR, token VARCHAR, key_id VARCHAR, epoch BIGINT, in_force_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE erasure (
    removal VARCHAR, table_name VARCHAR, row_count BIGINT, erased_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);

-- ── what holds it together ─────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE key_check (
    key_id VARCHAR, purpose VARCHAR, check_value VARCHAR, made_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE anchor (
    seq BIGINT, chain VARCHAR, place VARCHAR, anchored_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
CREATE TABLE event (  -- what else an operator should find later: reconciled parts, skipped checkpoints, …
    kind VARCHAR, subject VARCHAR, detail VARCHAR, happened_at TIMESTAMP,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
