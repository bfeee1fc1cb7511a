"""Readers of file formats: bytes in, title and text out. They run in a process of their own, under limits."""
