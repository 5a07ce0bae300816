"""The CNN Wild Park: checkpoints of CNNs, each of a network of its own."""
