"""The members that a run trains: new ones, more of them, twins of others."""
