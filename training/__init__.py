"""Learns from what was decided, and records for every checkpoint exactly which samples it saw."""
