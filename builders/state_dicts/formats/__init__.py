"""Formats of files of tensors: one file each, which says what a file holds before its tensors are read."""
