"""Helpers that import nothing else of this package: checks, devices, files, pictures, tables."""
