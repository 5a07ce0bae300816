"""Networks: kinds of layers, architectures, layouts, modules."""
