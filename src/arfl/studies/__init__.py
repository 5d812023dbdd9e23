"""Small numeric studies of the aggregation rule itself, without any training."""
