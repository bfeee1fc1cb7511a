"""A swarm of real peers on this network."""
