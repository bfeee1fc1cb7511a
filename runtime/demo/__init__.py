"""The demonstration: real peers, real people's data, and what they learn from each other."""
