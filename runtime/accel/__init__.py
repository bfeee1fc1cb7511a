"""What computes fastest here, found out in child processes."""
