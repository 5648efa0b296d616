"""What may be kept, and the ledger that says so.

Imports the standard library, DuckDB and small parsers only; importing it takes well under a second.
"""
