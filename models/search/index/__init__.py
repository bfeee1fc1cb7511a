"""The text index: words, postings, catalogue."""
