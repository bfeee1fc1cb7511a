"""Environments to learn in, offline and by name."""
