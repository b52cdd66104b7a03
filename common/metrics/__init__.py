"""Measures of agreement: measure once, derive many."""
