"""The digits as a Flower app."""
