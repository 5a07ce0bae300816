"""The version of the package, as what it writes records it."""

__version__ = "0.1.0"
