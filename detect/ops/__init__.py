"""Box geometry, suppression and matching: the arithmetic that every other folder builds on."""
