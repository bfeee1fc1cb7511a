"""One authenticated connection to a peer."""
