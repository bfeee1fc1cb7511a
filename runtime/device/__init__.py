"""What one device knows and does."""
