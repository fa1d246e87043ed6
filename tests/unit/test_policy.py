"""The table of rules, and an operator's overrides of single ones."""

from pathlib import Path

import pytest
import yaml

from app.auth import Caller, expand_roles
from app.errors import Forbidden, Invalid
from app.policy import HIDDEN, RULES, Policy, Who, sample, truth

LADDER = ("reader", "member", "admin")


def caller(*roles: str, project: str = "alpha") -> Caller:
    return Caller("u", "user", project, "project", "default", "default", expand_roles(roles), 0.0)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_roles_imply_downwards(rule: str) -> None:
    policy = Policy()
    permitted = [policy.permits(rule, caller(role)) for role in LADDER]
    expected = {
        Who.READER: [True, True, True],
        Who.MEMBER: [False, True, True],
        Who.ADMIN: [False, False, True],
        Who.NOBODY: [False, False, False],
    }[RULES[rule]]
    assert permitted == expected
    assert not policy.permits(rule, caller())
    assert not policy.permits(rule, caller("somebody"))


def test_the_defaults_are_upstreams() -> None:
    """zun-api, section 3.0; but that a reader only reads, and that the host's ports are for administrators."""
    assert {rule for rule, who in RULES.items() if who is Who.NOBODY} == {"container:create:privileged"}
    admin = {rule for rule, who in RULES.items() if who is Who.ADMIN}
    assert admin == {
        "container:create:runtime", "container:create:requested_destination", "container:create:image_pull_policy",
        "container:create:host_port", "container:delete_force", "container:delete_all_projects",
        "container:get_one_all_projects", "container:get_all_all_projects", "container:action:events",
        "image:pull", "image:get_all", "image:get_one", "image:delete", "registry:get_all_all_projects",
        *(f"container:get_one:{field}" for field in HIDDEN),
    }  # fmt: skip
    reader = {rule for rule, who in RULES.items() if who is Who.READER}
    assert reader == {
        "container:get_one", "container:get_all", "container:logs", "container:top", "container:stats",
        "container:actions", "image:search", "registry:get_one", "registry:get_all",
    }  # fmt: skip


def test_a_rule_that_nobody_defined_is_passed_by_nobody() -> None:
    assert not Policy().permits("container:levitate", caller("admin"))
    with pytest.raises(Forbidden, match="container:levitate"):
        Policy().require("container:levitate", caller("admin"))


def test_hidden_fields() -> None:
    assert Policy().hidden(caller("member")) == set(HIDDEN)
    assert Policy().hidden(caller("admin")) == set()


def policy_of(folder: Path, text: str) -> Policy:
    file = folder / "policy.yaml"
    file.write_text(text)
    return Policy(file)


def test_an_override_changes_one_rule_and_no_other(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, '"container:create": "role:admin"\n"container:get_one:host": ""\n')
    assert not policy.permits("container:create", caller("member"))
    assert policy.permits("container:create", caller("admin"))
    assert policy.hidden(caller("reader")) == set(HIDDEN) - {"host"}
    plain = Policy()
    for rule in RULES.keys() - {"container:create", "container:get_one:host"}:
        for role in LADDER:
            assert policy.permits(rule, caller(role)) == plain.permits(rule, caller(role))


@pytest.mark.parametrize(
    ("check", "who", "permitted"),
    [
        ("@", caller(), True),
        ("!", caller("admin"), False),
        ("", caller("somebody"), True),
        ("role:auditor", caller("auditor"), True),
        ("role:auditor", caller("admin"), False),
        ("role:admin or role:auditor", caller("auditor"), True),
        ("not role:auditor", caller("auditor"), False),
        ("project_id:alpha", caller("reader"), True),
        ("project_id:alpha", caller("admin", project="beta"), False),
        ("user_id:%(user_id)s", caller("reader"), True),
        ("project_id:%(project_id)s", caller("reader"), True),
        ("rule:container:get_all", caller("reader"), True),
        ("rule:container:create:runtime", caller("member"), False),
        ("role:ADMIN", caller("admin"), True),
        ("role:admin", caller("Admin"), True),
    ],
)
def test_checks_of_oslo_policy(tmp_path: Path, check: str, who: Caller, permitted: bool) -> None:
    policy = policy_of(tmp_path, f'"container:create": "{check}"\n')
    assert policy.permits("container:create", who) is permitted


def test_a_rule_of_upstream_that_caisson_does_not_know_is_no_error(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, '"capsule:create": "role:admin"\n')
    assert policy.permits("container:create", caller("member"))


@pytest.mark.parametrize("text", ["{not yaml", "- a\n- list\n", '"container:create": "role:"\n"x": "rule:x"\n', "42"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    if text.startswith('"'):
        policy = policy_of(tmp_path, text)
        assert not policy.permits("container:create", caller("member"))
        return
    with pytest.raises(Invalid, match="policy file"):
        policy_of(tmp_path, text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"none\.yaml"):
        Policy(tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "")
    assert policy.permits("container:create", caller("member"))
    assert not policy.permits("container:create", caller("reader"))


def test_the_sample_is_the_table(tmp_path: Path) -> None:
    text = sample()
    uncommented = text.replace('\n#"', '\n"')
    assert yaml.safe_load(uncommented) == {rule: who.value for rule, who in RULES.items()}
    assert yaml.safe_load(text) is None
    policy = policy_of(tmp_path, uncommented)
    for rule in RULES:
        for role in LADDER:
            assert policy.permits(rule, caller(role)) == Policy().permits(rule, caller(role)), rule


@pytest.mark.parametrize("value", ["1", "t", "T", "true", "True", "TRUE", "on", "y", "yes", "YES"])
def test_true(value: str) -> None:
    assert truth("flag", value) is True


@pytest.mark.parametrize("value", ["", "0", "f", "false", "False", "off", "n", "no"])
def test_false(value: str) -> None:
    assert truth("flag", value) is False


@pytest.mark.parametrize("value", ["maybe", "2", " true", "none", "ja"])
def test_neither(value: str) -> None:
    with pytest.raises(Invalid, match="flag"):
        truth("flag", value)
