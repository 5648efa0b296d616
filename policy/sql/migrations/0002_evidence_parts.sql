-- What the evidence of many pairs shares is kept once: an origin's documents, a page's headers and hints, a declared
-- document. `evidence.body_json` names them by id; evidence of before names none and holds everything itself.
CREATE TABLE evidence_part (  -- kind: origin, page or declared
    part_id VARCHAR, kind VARCHAR, body_json VARCHAR,
    batch_seq BIGINT, row_no INTEGER, salt BLOB, commitment VARCHAR, erased_by VARCHAR
);
