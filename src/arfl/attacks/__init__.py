"""Attacks on federated training, one file each; see `arfl.attack` for what an attack is."""
