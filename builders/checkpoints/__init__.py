"""Reading one checkpoint, without executing anything in it."""
