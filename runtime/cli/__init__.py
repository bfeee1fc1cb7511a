"""The command line: arguments, calls and tables, nothing else."""
