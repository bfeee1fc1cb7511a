"""Kernel bodies written once, rendered to one C function, a GPU or firmware."""
