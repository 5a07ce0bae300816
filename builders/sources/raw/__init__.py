"""Raw zoos in the layout of the original code."""
