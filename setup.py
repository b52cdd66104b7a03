"""Packages of the wheel: all of ``common``, and the bundles as ``common.bundles``; all else stands in pyproject.toml.

``packages.find`` alone cannot add a package that lies in another folder, hence this file.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["common", "common.*"]), "common.bundles"])
