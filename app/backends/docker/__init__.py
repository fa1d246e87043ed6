"""Docker and Podman: containers, capsules, and nodes of clusters."""
