"""What happened here and what peers replicate: signed records, version vectors."""
