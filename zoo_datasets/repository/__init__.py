"""A dataset repository on disk: its rows, its manifest, its card."""
