"""The kinds of source that a repository is built from."""
