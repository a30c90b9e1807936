"""Which objects of a dataset a detector cannot learn or return at its settings, before any training."""
