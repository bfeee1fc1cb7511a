"""Flight: quadrotor dynamics and what is trained on them."""
