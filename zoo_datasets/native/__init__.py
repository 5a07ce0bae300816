"""C that is compiled on this machine: the compiler, and the copying of rows."""
