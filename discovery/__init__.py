"""Who is there: mDNS, remembered and configured addresses, peers told by peers."""
