"""Drawings: curves, flights, swarms."""
