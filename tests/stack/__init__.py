"""Real services for tests: a container engine, registries, PostgreSQL and Keystone, each started on first use.

Every service lives in one private directory (see :mod:`tests.stack.session`) on a free loopback port, is started once
for a whole test session however many worker processes run it, and is stopped by a guard process even when the session
is killed. Nothing here asks a container registry: images are made from Debian's static busybox.
"""
