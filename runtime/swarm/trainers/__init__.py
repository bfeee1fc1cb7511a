"""One round of learning on own data."""
