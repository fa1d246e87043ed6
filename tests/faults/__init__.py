"""Faults: processes killed and frozen at chosen moments, cut and silent sockets, engines and databases that go away.

The gateway here is a process of its own, driven over HTTP, with a real engine and a real database behind it. Between
it and the engine stands a proxy that does the harm, so that nothing in ``app/`` knows of tests.
"""
