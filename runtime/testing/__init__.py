"""An in-memory network of peers with faults, and frames that are damaged on purpose."""
