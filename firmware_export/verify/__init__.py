"""The proof of an export on this machine and on emulated cores."""
