"""The command line: parse, call one function, write, exit code. One module for each group of commands."""
