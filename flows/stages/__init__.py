"""What a flow's task or a command does: `fn(home, …)`, resumable, without Prefect.

Every stage may be killed at any moment; called again it finishes the work. Parts are files, written atomically and
named by what they were made from; the ledger takes them over under idempotency keys.
"""
