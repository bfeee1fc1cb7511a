"""From a body to C or to tinygrad."""
