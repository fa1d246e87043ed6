"""OpenStack's own test suite for Zun, zun-tempest-plugin from PyPI, run against a Caisson of its own."""
