"""Files, locks and downloads: nothing here knows of zoos."""
