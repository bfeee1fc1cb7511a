"""From a network to integers: numerics, quantiser, and the references it is held to."""
