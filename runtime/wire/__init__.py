"""Frames, bodies, arrays and their limits; no input or output."""
