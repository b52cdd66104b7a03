"""The algorithm of a paper: one training step or one inference loop per file."""
