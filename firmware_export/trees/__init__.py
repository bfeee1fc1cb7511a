"""Trees: distilled, read, written as C, proved."""
