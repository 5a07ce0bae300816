"""The native path: a block of members in C, one member a vector lane."""
