"""Small supervised models of a dataset: what its environment does."""
