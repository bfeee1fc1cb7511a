"""Flight in simulation: vehicle, dynamics, tasks, environment."""
