"""Studies that benchmarks and tests run; no part of the package."""
