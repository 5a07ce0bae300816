"""What `datasets` keeps of zoos on this machine, and whether it is whole."""
