"""From the states of a source to Parquet shards."""
