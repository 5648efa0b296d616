"""Long proofs: `make prove PROOF=name`. Resumable; each appends its result to docs/proofs.md."""
