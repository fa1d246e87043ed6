"""Who did what to whom, and how it ended: one line of JSON each, with CADF's fields (DMTF DSP0262), as other OpenStack
services write them.

A request that changes something is one event; how what it set in motion ended is another, with the same request id.
Bodies and queries are never part of an event, and neither is any token.
"""

import json
import logging
import os
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

log = structlog.get_logger("caisson.audit")
lines = logging.getLogger("caisson.audit.events")

EVENT = "http://schemas.dmtf.org/cloud/audit/1.0/event"
WAITING = 10_000  # lines that a disk may be behind
TARGETS = {
    "container": "service/container/containers",
    "capsule": "service/container/capsules",
    "image": "service/container/images",
    "cluster": "service/container-infra/clusters",
}
"""What the action log's kinds are called; others are of the container service."""


def event(
    action: str,
    outcome: str,
    *,
    initiator: dict[str, Any],
    target: dict[str, Any],
    reason: dict[str, str],
    request_id: str,
    **more: Any,
) -> None:
    """Write one event. `outcome` is success, failure or pending."""
    content = {
        "typeURI": EVENT,
        "id": str(uuid4()),
        "eventType": "activity",
        "eventTime": datetime.now(UTC).isoformat(),
        "action": action,
        "outcome": outcome,
        "initiator": {"typeURI": "service/security/account/user"} | initiator,
        "target": target,
        "observer": {"typeURI": "service/container", "id": "caisson", "name": os.uname().nodename},
        "reason": reason,
        "request_id": request_id,
    }
    lines.info(json.dumps(content | more, default=str))


def ended(kind: str, resource_id: str, verb: str, state: str, message: str | None, **who: str) -> None:
    """An action of the log ended. `who` has its project_id, user_id and request_id, as the log has them."""
    attached = [{"typeURI": "text/plain", "name": "message", "content": message}] if message else []
    event(
        verb,
        "success" if state == "done" else "failure",
        initiator={"id": who["user_id"], "project_id": who["project_id"]},
        target={"typeURI": TARGETS.get(kind, f"service/container/{kind}s"), "id": resource_id},
        reason={"reasonType": "action", "reasonCode": state},
        request_id=who["request_id"],
        **({"attachments": attached} if attached else {}),
    )


class _Patient(QueueHandler):
    """Hands lines to the thread that writes. One that finds no room is lost, and the log says so."""

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            log.error("an audit event is lost: its file takes no more", audit=record.getMessage())


@contextmanager
def writing(file: Path | None) -> Iterator[None]:
    """Write events to a file, which may be renamed meanwhile, or to standard error; all are written when this ends.

    Raises OSError when the file cannot be opened.
    """
    target: logging.Handler = logging.StreamHandler(sys.stderr)
    if file is not None:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        target = WatchedFileHandler(file)
    hand_over = _Patient(queue.Queue(WAITING))
    listener = QueueListener(hand_over.queue, target)
    lines.setLevel(logging.INFO)
    lines.propagate = False
    lines.addHandler(hand_over)
    listener.start()
    try:
        yield
    finally:
        lines.removeHandler(hand_over)
        listener.stop()
        target.close()
