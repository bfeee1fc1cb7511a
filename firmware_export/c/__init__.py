"""The C that an export consists of."""
