"""What is laid around the C for a firmware framework."""
