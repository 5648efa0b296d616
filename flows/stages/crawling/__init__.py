"""The crawl's rooms: its plan on disk, who asks, what is read, the rows of parts, the ledger's taking over."""
