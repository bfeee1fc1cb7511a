"""Who exchanges with whom, and when."""
