"""What scripts/run does for a new user: an engine, a small image, a gateway, a login for the client, the main job."""
