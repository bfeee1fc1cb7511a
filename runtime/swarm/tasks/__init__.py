"""What swarms learn in studies."""
