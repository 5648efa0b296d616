"""Removal: a request from its arrival to a receipt, one module a part."""
