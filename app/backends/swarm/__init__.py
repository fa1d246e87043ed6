"""Docker Swarm: clusters whose nodes are containers, and containers in them as services."""
