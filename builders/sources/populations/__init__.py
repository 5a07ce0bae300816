"""Published populations by name: what is known of each beyond its files."""
