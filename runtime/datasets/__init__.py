"""Data sets where they are installed."""
