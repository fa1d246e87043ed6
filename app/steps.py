"""Every module that registers steps: who imports this one knows all verbs of the action log."""

from app import (
    capsule_steps,
    change_steps,
    cluster_steps,
    cluster_watch,
    container_steps,
    firewall,
    images,
    network_steps,
    observe,
    volumes,
)

__all__ = [
    "capsule_steps",
    "change_steps",
    "cluster_steps",
    "cluster_watch",
    "container_steps",
    "firewall",
    "images",
    "network_steps",
    "observe",
    "volumes",
]
