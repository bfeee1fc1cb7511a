"""A swarm in virtual time."""
