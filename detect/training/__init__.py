"""From a configuration to a trained detector, and from a trained detector to results."""
