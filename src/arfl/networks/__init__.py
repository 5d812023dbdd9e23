"""Networks, one file each; see `arfl.network` for what a network is."""
