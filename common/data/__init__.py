"""Readers per dataset layout, splits, checks and simulated cohorts."""
