"""Search on the device: text index, click log, G-Rank."""
