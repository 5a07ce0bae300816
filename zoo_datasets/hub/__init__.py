"""The Hub: reading from it, and pushing to it."""
