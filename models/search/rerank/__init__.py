"""Rerankers that learn from clicks, and their gate."""
