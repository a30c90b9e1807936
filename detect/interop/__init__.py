"""To and from other frameworks."""
