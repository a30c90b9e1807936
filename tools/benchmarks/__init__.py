"""The pieces of work that tools/bench.py measures side by side."""
