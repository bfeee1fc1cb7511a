"""From a trained policy to proven C for microcontrollers."""
