"""The home directory and its database."""
