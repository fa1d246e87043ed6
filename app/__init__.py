"""Caisson: OpenStack's container services in one process."""

__version__ = "0.1.0"
