"""Ours: a dependency installs a package of this name, and `python -m tests.proofs.…` must find the one that is here."""
