"""Transforms, networks, losses, inferers and metrics shared by all bundles of the collection."""

__version__ = "0.1.0"
