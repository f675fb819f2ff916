"""What documents, shards and snapshots are and how they lie on disk, without Ray or torch."""
