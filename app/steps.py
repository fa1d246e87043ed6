"""Every module that registers steps: who imports this one knows all verbs of the action log."""

from app import container_steps, images, observe

__all__ = ["container_steps", "images", "observe"]
