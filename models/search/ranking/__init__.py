"""G-Rank: what clicks say about an order."""
