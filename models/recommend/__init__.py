"""Recommend items from what peers signed: trust, a bounded graph, recommenders, and how they are combined."""
