"""Populations of other projects by their own formats."""
