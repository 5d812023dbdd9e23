"""Partition schemes, one file each; see `arfl.partition` for what a scheme is."""
