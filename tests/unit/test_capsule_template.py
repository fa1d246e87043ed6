"""Templates of capsules: what is refused and how, and that nothing that JSON can say makes parsing fail otherwise."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.capsules import hostname_of
from app.errors import Invalid
from app.refusals import sentence
from app.routers.capsule_template import MOST_CONTAINERS, CapsuleCreate, Template, Wish
from app.settings import Settings

OWNER = {"project_id": "p", "user_id": "u", "backend": "local", "host": "h"}
SETTINGS = Settings()
GOOD: dict[str, Any] = {
    "kind": "capsule",
    "metadata": {"name": "demo"},
    "spec": {"containers": [{"image": "busybox", "command": ["sleep"], "args": ["1"]}]},
}


def parsed(template: Any) -> Wish:
    """The rows of a template. Raises ValidationError for its shape, Invalid for the rest."""
    return Wish(CapsuleCreate.model_validate({"template": template}).template, OWNER, SETTINGS)


def changed(path: str, value: Any) -> Any:
    """The good template with something else at this path."""
    template = json.loads(json.dumps(GOOD))
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at = template
    for step in steps:
        at = at.setdefault(step, {}) if isinstance(at, dict) else at[step]
    at[last] = value
    return template


def refusal(template: Any) -> str:
    """What the user is told. Fails when the template is not refused."""
    try:
        parsed(template)
    except ValidationError as error:
        return said(error)
    except Invalid as error:
        return error.title
    pytest.fail("the template was taken")


def said(error: ValidationError) -> str:
    """Pydantic's findings as the user reads them."""
    findings: list[Any] = list(error.errors(include_url=False))
    return sentence(findings)


BOX = "spec.containers.0"
BAD: list[tuple[str, Any, list[str]]] = [
    ("kind", "pod", ["kind", "pod", "capsule"]),
    ("kind", None, ["kind"]),
    ("capsuleVersion", "alpha", ["capsuleVersion", "alpha"]),
    ("metadata", None, ["metadata"]),
    ("metadata.name", "-x", ["name"]),
    ("metadata.name", "x" * 256, ["name", "255"]),
    ("metadata.labels", {"a": None}, ["metadata.labels", "a"]),
    ("metadata.labels", {"a": ["b"]}, ["metadata.labels", "a"]),
    ("metadata.labels", {"caisson.uuid": "x"}, ["caisson.", "reserved"]),
    ("metadata.labels", [], ["labels"]),
    ("metadata.annotations", {"a": {}}, ["metadata.annotations", "a"]),
    ("metadata.bogus", 1, ["bogus"]),
    ("spec", [], ["spec"]),
    ("spec.bogus", 1, ["bogus"]),
    ("spec.restartPolicy", "Sometimes", ["restartPolicy", "Sometimes", "Always"]),
    ("spec.containers", [], ["containers", "1"]),
    ("spec.containers", {}, ["containers"]),
    ("spec.containers", [{"image": "busybox"}] * (MOST_CONTAINERS + 1), ["containers", str(MOST_CONTAINERS)]),
    ("spec.initContainers", [{"command": ["true"]}], ["image", "required"]),
    ("spec.initContainers", [{"image": "busybox", "ports": [{"containerPort": 1, "hostPort": 2}]}], ["hostPort"]),
    (f"{BOX}.image", "x", ["image", "2"]),
    (f"{BOX}.image", 7, ["image"]),
    (f"{BOX}.bogus", 1, ["bogus"]),
    (f"{BOX}.name", "a b", ["name"]),
    (f"{BOX}.command", "sleep 1", ["command"]),
    (f"{BOX}.command", [1], ["1", "string"]),
    (f"{BOX}.args", {"a": 1}, ["args"]),
    (f"{BOX}.env", {"A": 1}, ["A"]),
    (f"{BOX}.env", {"A=B": "1"}, ["env", "A=B"]),
    (f"{BOX}.imagePullPolicy", "sometimes", ["imagePullPolicy", "sometimes"]),
    (f"{BOX}.stdin", "maybe", ["stdin", "maybe"]),
    (f"{BOX}.resources", {"limits": {}}, ["limits"]),
    (f"{BOX}.resources.requests", {"cpu": -1}, ["cpu"]),
    (f"{BOX}.resources.requests", {"cpu": 99}, ["spec.containers[0].resources.requests.cpu", "99", "16"]),
    (f"{BOX}.resources.requests", {"memory": 1}, ["spec.containers[0].resources.requests.memory", "4", "8192"]),
    (f"{BOX}.resources.requests", {"memory": "1g"}, ["memory", "1g"]),
    (f"{BOX}.ports", [{}], ["containerPort", "required"]),
    (f"{BOX}.ports", [{"containerPort": 0}], ["containerPort", "0", "1"]),
    (f"{BOX}.ports", [{"containerPort": 70000}], ["containerPort", "70000", "65535"]),
    (f"{BOX}.ports", [{"containerPort": 1, "protocol": "SCTP"}], ["protocol", "SCTP"]),
    (f"{BOX}.ports", [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}], ["5/TCP", "twice"]),
    (f"{BOX}.volumeMounts", [{"name": "v", "mountPath": "/v"}], ["volumeMounts[0]", "'v'"]),
    ("spec.volumes", [{"name": "vol", "cinder": {"size": 1}}], ["spec.volumes", "'vol'", "mounts"]),
    ("spec.volumes", [{"name": "vol", "cinder": {}}], ["cinder", "volumeID", "size"]),
    ("spec.volumes", [{"name": "vol", "cinder": {"volumeID": "x"}}], ["volumeID", "36"]),
    ("spec.volumes", [{"name": "vol", "cinder": {"size": 0}}], ["size", "0"]),
    ("spec.volumes", [{"name": "vol", "hostPath": "/"}], ["hostPath"]),
    ("spec.volumes", [{"name": "vol"}], ["cinder", "emptyDir"]),
    ("spec.volumes", [{"name": "vol", "emptyDir": {}, "cinder": {"size": 1}}], ["cinder", "emptyDir"]),
    ("spec.volumes", [{"name": "vol", "cinder": {"volumeID": "x" * 36, "autoRemove": True}}], ["autoRemove"]),
    ("spec.volumes", [{"name": "vol", "emptyDir": {}}] * 2, ["spec.volumes", "'vol'", "two"]),
    ("availabilityZone", "", ["availabilityZone"]),
    ("bogus", 1, ["bogus"]),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD, ids=[f"{path}={str(value)[:40]}" for path, value, _ in BAD])
def test_what_is_refused_is_named(path: str, value: Any, words: list[str]) -> None:
    title = refusal(changed(path, value))
    assert not [word for word in words if word not in title], title


@pytest.mark.parametrize("path", ["data", "/", "//", "/a/../b", "/proc/1", "/dev", "/" + "x" * 256, "/a\n"])
def test_where_nothing_can_be_mounted(path: str) -> None:
    template = changed("spec.volumes", [{"name": "vol", "emptyDir": {}}])
    template["spec"]["containers"][0]["volumeMounts"] = [{"name": "vol", "mountPath": path}]
    assert "mountPath" in refusal(template)


@pytest.mark.parametrize(
    ("text", "word"),
    [("{", "JSON"), ("[" * 100_000, "JSON"), ('"x"', "template"), ("", "JSON"), ('{"kind": "\\u0000"}', "kind"),
     ('{"\\ud800": 1}', "template"), ("null", "template")],
)  # fmt: skip
def test_a_string_that_is_no_template(text: str, word: str) -> None:
    assert word in refusal(text)


def test_two_policies_that_disagree() -> None:
    template = changed("spec.restartPolicy", "Never") | {"restartPolicy": "Always"}
    assert "spec.restartPolicy" in refusal(template)


def test_two_containers_of_one_name() -> None:
    boxes = [{"image": "busybox", "name": "same"}] * 2
    assert "spec.containers[1].name" in refusal(changed("spec.containers", boxes))


def test_what_a_capsule_asks_for() -> None:
    """The sum of its containers, or its greediest init container if that is more."""

    def entry(cpu: float, memory: int) -> dict[str, Any]:
        return {"image": "busybox", "resources": {"requests": {"cpu": cpu, "memory": memory}}}

    template = changed("spec.containers", [entry(0.1, 100), entry(0.2, 50)])
    template["spec"]["initContainers"] = [entry(1, 20), entry(0.5, 400)]
    capsule = parsed(template).capsule
    assert (capsule.cpu, capsule.memory) == (1.0, 400)
    assert (parsed(GOOD).capsule.cpu, parsed(GOOD).capsule.memory) == (1.0, 512)  # what containers get by default


def test_names() -> None:
    wish = parsed(GOOD)
    assert wish.boxes[0].name.startswith("capsule-demo-")
    assert wish.boxes[0].command == ["sleep", "1"]
    unnamed = parsed(changed("metadata", {}))
    assert unnamed.capsule.name.endswith("-capsule")


@pytest.mark.parametrize(
    ("name", "host"), [("demo", "demo"), ("a_b.c", "a-b-c"), ("x" * 70, "x" * 63), ("__", "capsule")]
)
def test_hostnames(name: str, host: str) -> None:
    assert hostname_of(name) == host


KEYS = st.sampled_from(
    [
        *Template.model_fields, "name", "labels", "annotations", "containers", "initContainers", "volumes", "image",
        "command", "args", "env", "ports", "containerPort", "hostPort", "protocol", "resources", "requests", "cpu",
        "memory", "volumeMounts", "mountPath", "cinder", "size", "volumeID", "stdin", "imagePullPolicy",
    ]
)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["capsule", "Always", "busybox", "/data", "demo", "1", "0.5", "TCP", "True"])
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=8), inner, max_size=6),
    max_leaves=40,
)
REQUESTS = st.dictionaries(st.sampled_from(["cpu", "memory"]), LEAVES)
ENTRIES = st.fixed_dictionaries(
    {"image": st.text(max_size=30) | st.just("busybox:1")},
    optional={
        "name": JSON, "command": JSON, "args": st.lists(st.text(max_size=9), max_size=3), "env": JSON, "stdin": JSON,
        "ports": JSON | st.lists(st.fixed_dictionaries({"containerPort": LEAVES}, optional={"hostPort": LEAVES})),
        "resources": JSON | st.fixed_dictionaries({"requests": REQUESTS}),
        "volumeMounts": JSON, "workDir": JSON,
    },
)  # fmt: skip
TEMPLATES = st.fixed_dictionaries(
    {
        "kind": st.just("capsule"),
        "metadata": st.fixed_dictionaries(
            {}, optional={"name": st.text(max_size=9), "labels": JSON, "annotations": JSON}
        ),
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(ENTRIES, min_size=1, max_size=3)},
            optional={"initContainers": st.lists(ENTRIES, max_size=2), "volumes": JSON, "restartPolicy": JSON},
        ),
    },
    optional={"availabilityZone": JSON, "restartPolicy": JSON},
)  # fmt: skip


def _texts(wish: Wish) -> Iterator[Any]:
    for row in (wish.capsule, *wish.boxes):
        yield from row.model_dump().values()


@settings(deadline=None, max_examples=150)
@given(JSON | TEMPLATES | JSON.map(json.dumps) | TEMPLATES.map(json.dumps))
def test_any_json_is_taken_or_refused(template: Any) -> None:
    """Never another error; and what is taken can be stored: text in UTF-8, numbers within a column."""
    wish = None
    refused: list[str] = []
    try:
        wish = parsed(template)
    except ValidationError as error:
        refused.append(said(error))
    except Invalid as error:
        refused.append(error.title)
    if wish is None:
        assert all(refused)
        return
    for value in _texts(wish):
        json.dumps(value, allow_nan=False)
    assert wish.boxes
    assert all(box.capsule_id == wish.capsule.uuid for box in wish.boxes)
