"""The table of rules, and an operator's overrides of single ones."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import app.routers
from app.auth import Caller, expand_roles
from app.errors import Forbidden, Invalid
from app.policy import HIDDEN, RULES, Policy, Who, sample, truth
from app.rules import TEXTS

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


UPSTREAM = """
    container: create delete get_one get_all update start stop reboot pause unpause logs execute execute_resize kill
        rename attach resize top get_archive put_archive stats commit add_security_group remove_security_group
        network_attach network_detach rebuild resize_container actions action:events create:runtime
        create:requested_destination create:image_pull_policy create:privileged delete_force delete_all_projects
        get_one_all_projects get_all_all_projects get_one:host get_one:image_pull_policy get_one:privileged
        get_one:runtime
    capsule: create delete get get_all delete_all_projects get:host get_one_all_projects get_all_all_projects
    image: pull get_all get_one delete search
    network: create delete attach_external_network
    host: get_all get
    availability_zones: get_all
    zun-service: get_all enable disable force_down delete
    quota: get get_default update delete
    quota_class: get update
    registry: create get_one get_all update delete get_all_all_projects
    clustertemplate: create update delete get get_all detail publish get_one_all_projects get_all_all_projects
        detail_all_projects update_all_projects delete_all_projects
    cluster: create update update_health_status delete get get_all detail resize upgrade get_one_all_projects
        get_all_all_projects detail_all_projects update_all_projects delete_all_projects upgrade_all_projects
    nodegroup: create update delete get get_all get_one_all_projects get_all_all_projects
    certificate: create get rotate_ca
    credential: rotate
    quota: get_all create
    stats: get_all
    magnum-service: get_all
    federation: create update delete get get_all detail
"""
ADMIN_ONLY = (
    "clustertemplate:publish", "clustertemplate:get_one_", "clustertemplate:get_all_", "clustertemplate:detail_",
    "clustertemplate:update_", "clustertemplate:delete_",
    "container:create:", "container:delete_", "container:get_one:", "container:get_one_", "container:get_all_",
    "container:action:events", "capsule:delete_", "capsule:get:", "capsule:get_one_", "capsule:get_all_", "image:",
    "network:", "host:", "zun-service:", "quota:update", "quota:delete", "quota_class:", "registry:get_all_",
    "cluster:get_one_", "cluster:get_all_", "cluster:detail_", "cluster:update_all", "cluster:delete_",
    "cluster:upgrade_", "nodegroup:get_one_", "nodegroup:get_all_", "quota:get_all", "quota:create",
    "magnum-service:",
)  # fmt: skip


def test_every_rule_of_upstream_is_there_with_its_default() -> None:
    """zun-api, 3.0, and magnum-api, 8.4; but that a reader only reads, and that host ports are for administrators."""
    noun, upstream = "", set()
    for word in UPSTREAM.split():
        if word.endswith(":"):
            noun = word
        else:
            upstream.add(noun + word)
    volumes = {f"volume:{verb}" for verb in ("create", "delete", "get_all", "get_one")}
    assert (
        set(RULES) - upstream
        == {"container:create:host_port", "certificate:of_others", "certificate:create:system"} | volumes
    )
    assert upstream <= set(RULES)
    assert {rule for rule, who in RULES.items() if who is Who.NOBODY} == {"container:create:privileged"}
    for rule in upstream - {"container:create:privileged", "image:search"}:
        assert (RULES[rule] is Who.ADMIN) == rule.startswith(ADMIN_ONLY), rule


def test_a_rule_that_nobody_defined_is_passed_by_nobody() -> None:
    assert not Policy().permits("container:levitate", caller("admin"))
    with pytest.raises(Forbidden, match="container:levitate"):
        Policy().require("container:levitate", caller("admin"))


def test_hidden_fields() -> None:
    assert Policy().hidden(caller("member")) == set(HIDDEN)
    assert Policy().hidden(caller("admin")) == set()


def policy_of(folder: Path, text: str) -> Policy:
    folder.mkdir(exist_ok=True)
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
        ("rule:context_is_admin", caller("admin"), True),
        ("rule:context_is_admin", caller("member"), False),
        ("rule:admin_api", caller("admin"), True),
        ("rule:admin_or_owner", caller("reader"), True),
        ("rule:admin_or_user", caller("reader"), True),
        ("rule:deny_everybody", caller("admin"), False),
        ("is_admin:True", caller("admin"), True),
        ("is_admin:True", caller("member"), False),
        ("is_admin:True or project_id:%(project_id)s", caller("somebody"), True),
        ("role:admin", caller("Admin"), True),
    ],
)
def test_checks_of_oslo_policy(tmp_path: Path, check: str, who: Caller, permitted: bool) -> None:
    policy = policy_of(tmp_path, f'"container:create": "{check}"\n')
    assert policy.permits("container:create", who) is permitted


def test_who_is_an_administrator_can_be_changed(tmp_path: Path) -> None:
    for name in ("context_is_admin", "admin_api"):
        policy = policy_of(tmp_path, f'"{name}": "role:operator"\n')
        for rule, who in RULES.items():
            assert policy.permits(rule, caller("operator")) == (who is Who.ADMIN), rule
            assert policy.permits(rule, caller("admin")) == (who in (Who.READER, Who.MEMBER)), rule
    policy = policy_of(tmp_path, '"context_is_admin": "role:operator"\n"container:create": "rule:admin_or_owner"\n')
    assert policy.permits("container:create", caller("operator", project="beta"))


def test_owners_can_be_narrowed_and_not_widened(tmp_path: Path) -> None:
    """Upstream's own text, which lets everybody of a project do everything, makes no members of readers."""
    same = policy_of(tmp_path, '"admin_or_owner": "is_admin:True or project_id:%(project_id)s"\n')
    narrow = policy_of(tmp_path / "narrow", '"admin_or_owner": "is_admin:True or role:container_user"\n')
    for rule, who in RULES.items():
        for role in LADDER:
            assert same.permits(rule, caller(role)) == Policy().permits(rule, caller(role)), rule
        if who in (Who.READER, Who.MEMBER):
            assert not narrow.permits(rule, caller("member"))
            assert narrow.permits(rule, caller("member", "container_user"))
            assert narrow.permits(rule, caller("admin"))


def test_every_rule_is_explained() -> None:
    assert TEXTS.keys() == RULES.keys()
    assert len(set(TEXTS.values())) == len(TEXTS)
    assert all(text.endswith(".") for text in TEXTS.values())
    assert '# Send a signal to a container.\n#"container:kill": "role:member"\n' in sample()


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


def test_every_rule_is_checked_somewhere_and_no_other() -> None:
    """Rules stand in routers as words, or as the verb of an action."""
    words: set[str] = {f"container:get_one:{field}" for field in HIDDEN}
    for file in (Path(app.routers.__file__).parent).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "acting":
                words |= {f"container:{verb.value!s}" for verb in node.args if isinstance(verb, ast.Constant)}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words |= {node.value} if re.fullmatch(r"[a-z_-]+(:[a-z_]+)+", node.value) else set()
    assert words == RULES.keys()
