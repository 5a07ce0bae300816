"""The `zoo` command, one file a command: its options, what it calls, what it prints."""

from zoo_datasets.cli.app import app, main

__all__ = ["app", "main"]
