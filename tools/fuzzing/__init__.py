"""Damaged input for the readers and commands: what is run, how input is changed, and how what fails is kept."""
