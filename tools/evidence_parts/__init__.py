"""The parts of tools/evidence.py."""
