"""Training: real data to a detector that is measured, saved and resumed."""
