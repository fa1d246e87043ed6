"""Caisson's tests, in folders by what they need.

Nothing: unit, api. A container engine: conformance, engines. Everything: e2e, faults.
"""
