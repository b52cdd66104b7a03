"""Seeded simulated cohorts, one generator per dataset layout."""
