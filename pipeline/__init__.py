"""Ray jobs that turn raw files into one snapshot of packed shards, in the order data meets them."""
