"""The loop of `solve`: phases run on mini-batches or on a fixed set, and everything they share."""
