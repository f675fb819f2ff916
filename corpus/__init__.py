"""What documents, shards and snapshots are and how they lie on disk; needs neither Ray nor torch."""
