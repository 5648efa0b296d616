"""One file a mechanism: raw bytes or headers in, `Signal`s out. Pure, without network."""
