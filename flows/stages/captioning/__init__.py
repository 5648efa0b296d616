"""Captioning in its parts: the bank that ledger and phrase lists give, the models, what their scores are worth."""
