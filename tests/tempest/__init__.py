"""OpenStack's own test suites, plugins of tempest from PyPI, run against a Caisson of their own.

`suite` runs tempest and reads its results, `expected` compares them with what is claimed, a module for each plugin says
what surrounds it and what its lanes are, and lists beside it what does not pass.
"""
