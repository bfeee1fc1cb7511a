"""The peer process."""
