"""How rows look in answers: ages, times, and when an answer begins to look different."""

import json
import time
from typing import Any

import pytest

from app.models import Container, Status
from app.routers.container_view import answer, status_detail, view
from app.routers.requests import iso_time, plain_time

NOW = 1_000_000.0


def box(**columns: Any) -> Container:
    row: dict[str, Any] = {
        "project_id": "alpha", "user_id": "u", "name": "n", "image": "busybox", "backend": "local", "created_at": 1.0,
    }  # fmt: skip
    return Container(**(row | columns))


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        (1, "1 seconds"), (59.9, "59 seconds"), (60, "1 mins"), (3599, "59 mins"), (3600, "1 hours"),
        (86399, "23 hours"), (86400, "1 days"), (10**7, "115 days"),
    ],
)  # fmt: skip
def test_ages_are_told_in_the_largest_unit(seconds: float, age: str) -> None:
    running = box(status=Status.RUNNING, started_at=NOW - seconds)
    assert status_detail(running, NOW) == f"Up {age}"
    assert status_detail(box(status=Status.PAUSED, started_at=NOW - seconds), NOW) == f"Up {age} (paused)"
    stopped = box(status=Status.STOPPED, finished_at=NOW - seconds, exit_code=3)
    assert status_detail(stopped, NOW) == f"Exited(3) {age} ago "  # the blank is Zun's


def test_details_without_an_age() -> None:
    assert status_detail(box(status=Status.CREATED), NOW) == "Created"
    assert status_detail(box(status=Status.DEAD), NOW) == "Dead"
    assert status_detail(box(status=Status.RESTARTING), NOW) == "Restarting"
    for status in (Status.CREATING, Status.ERROR, Status.DELETING, Status.RUNNING, Status.STOPPED, Status.UNKNOWN):
        assert status_detail(box(status=status), NOW) is None
    assert status_detail(box(status=Status.RUNNING, started_at=NOW - 0.5), NOW) is None
    assert status_detail(box(status=Status.RUNNING, started_at=NOW + 5), NOW) is None  # clocks differ a little


@pytest.mark.parametrize("seconds", [0.2, 1, 5.5, 59, 60, 90, 3599, 3600, 86399, 86400, 200_000])
@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED, Status.STOPPED])
def test_an_answer_is_good_exactly_until_an_age_counts_up(status: Status, seconds: float) -> None:
    now = time.time()
    row = box(status=status, started_at=now - seconds, finished_at=now - seconds, exit_code=0)
    found = answer({"a": 1}, [row])
    assert json.loads(found.content) == {"a": 1}
    shown = status_detail(row, time.time())
    assert status_detail(row, found.good_until - 0.01) == shown
    assert status_detail(row, found.good_until + 0.1) != shown


def test_an_answer_is_good_until_the_first_of_its_rows_ages() -> None:
    now = time.time()
    rows = [box(status=Status.RUNNING, started_at=now - 100_000), box(status=Status.RUNNING, started_at=now - 10.5)]
    assert answer({}, rows).good_until <= now + 1
    assert answer({}, [box(status=Status.ERROR, started_at=now)]).good_until > now + 1000
    assert answer({}, []).good_until > now + 1000


def test_times() -> None:
    assert plain_time(None) is None
    assert plain_time(1769850307.0) == "2026-01-31 09:05:07"
    assert plain_time(1769850307.123456) == "2026-01-31 09:05:07.123456"
    assert iso_time(None) is None
    assert iso_time(1769850307.0) == "2026-01-31T09:05:07.000000"
    assert iso_time(1769850307.5) == "2026-01-31T09:05:07.500000"


def test_hidden_fields_are_absent_and_lists_have_no_links() -> None:
    row = box(host="h", runtime="runc", privileged=False)
    whole = view(row, (), "http://cloud")
    assert [whole[name] for name in ("host", "runtime", "privileged", "image_pull_policy")] == [
        "h",
        "runc",
        False,
        None,
    ]
    hidden = view(row, ("host", "runtime", "privileged", "image_pull_policy"), "http://cloud")
    assert whole.keys() - hidden.keys() == {"host", "runtime", "privileged", "image_pull_policy"}
    assert whole.keys() - view(row, (), None).keys() == {"links"}


def test_what_was_never_set_is_null_only_at_first() -> None:
    maps, lists = ("environment", "labels", "addresses", "restart_policy", "healthcheck"), (
        "command", "entrypoint", "ports", "security_groups",
    )  # fmt: skip
    fresh, later = view(box(), (), None, fresh=True), view(box(), (), None)
    assert [fresh[name] for name in (*maps, *lists)] == [None] * 9
    assert [later[name] for name in maps] == [{}] * 5
    assert [later[name] for name in lists] == [[]] * 4
    full = box(environment={"A": "1"}, command=["x"], ports=[80])
    for shown in (view(full, (), None, fresh=True), view(full, (), None)):
        assert (shown["environment"], shown["command"], shown["ports"]) == ({"A": "1"}, ["x"], [80])


def test_numbers_are_of_zuns_types() -> None:
    shown = view(box(cpu=0.5, memory=128, disk=3), (), None)
    assert (shown["cpu"], shown["memory"], shown["disk"]) == (0.5, "128", 3)
    assert view(box(), (), None)["memory"] is None
