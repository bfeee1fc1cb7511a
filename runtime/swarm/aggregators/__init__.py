"""Rules that make one model of several."""
