"""Who this device is: key, certificate, flock, id text."""
