"""Files that only a C library reads: HDF5 and LMDB. A process of its own opens each, with bounded memory and time.

The libraries follow offsets that a file states, and one of them maps it into memory: a damaged or hostile file may
crash them, or do worse. So the package's process never opens one. `process` starts `child` and talks to it in frames
of plain JSON and bytes, which are checked like a stranger's file; `hdf5_file` and `lmdb_file` are what the rest asks.
"""
