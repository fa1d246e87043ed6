"""Clusters and their node groups: what may be asked of them (magnum-api, sections 4.1, 4.2 and 6).

Whatever changes a cluster, or one of its groups, is an action of the cluster, so that these stand in one queue. The
rows say what is wanted before the action begins; the steps (``app.cluster_steps``) make the engine follow.
"""

from pydantic import Field

from app.actions import StepArgs


class CreateArgs(StepArgs):
    """Verb ``create``: everything is new."""


class UpdateArgs(StepArgs):
    """Verb ``update``: node groups were added, changed, or are to go (their status says which).

    `groups` are the uuids of those that this action is about; `leaving` names nodes of one that go first when it
    shrinks; `batch` nodes at most are replaced at a time. When it fails, the template, the counts and the images that
    it changed become again what `before_template`, `before_counts` and `before_images` say (by group uuid; of images
    the columns ``image_id``, ``node_image`` and ``node_profile``).
    """

    groups: list[str] = Field(default_factory=list)
    leaving: list[str] = Field(default_factory=list)
    batch: int = 1
    before_template: str | None = None
    before_counts: dict[str, int] = Field(default_factory=dict)
    before_images: dict[str, dict[str, str]] = Field(default_factory=dict)


class RotateArgs(StepArgs):
    """Verb ``rotate_ca``: the rows of its keys hold the new authority, and the previous one until it is done."""


class DeleteArgs(StepArgs):
    """Verb ``delete``."""
