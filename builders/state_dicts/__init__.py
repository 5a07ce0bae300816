"""Anybody's state dicts: what files of tensors hold, what their names and tables say of them, and their layouts."""
