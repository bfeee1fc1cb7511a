"""From C to something that runs: compilers, cache of libraries, GPU."""
