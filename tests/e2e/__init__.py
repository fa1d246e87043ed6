"""A served process, driven by the clients that people use."""
