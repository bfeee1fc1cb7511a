"""Training of policies that fly."""
