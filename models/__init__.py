"""What learns: arrays in, arrays out; no sockets, no files, no clock."""
