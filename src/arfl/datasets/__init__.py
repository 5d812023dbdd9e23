"""Datasets, one file each; see `arfl.dataset` for what a dataset is."""
