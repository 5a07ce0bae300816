"""Rows from memory into a config."""
