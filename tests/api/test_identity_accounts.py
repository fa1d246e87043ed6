"""The embedded identity's API in process: what ends a token, who may do what, and the rows that are kept."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from app.db import EVERYTHING
from app.identity import ROLE_IDS
from app.models import IdentityRevocation, IdentityUser
from tests.api.identity_cloud import DEFAULT, PASSWORD, Cloud, Prepared, configured, error_of, serving


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("identity"))


@pytest.fixture
async def cloud(prepared: Prepared, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with prepared.copied(tmp_path) as cloud:
        yield cloud


@pytest.fixture
async def either(tmp_path: Path, database_url: str) -> AsyncIterator[Cloud]:
    """A cloud after its first start, once on SQLite and once on PostgreSQL."""
    async with serving(configured(tmp_path), database_url) as cloud:
        yield cloud


async def demo(cloud: Cloud, admin: str) -> str:
    """The id of the first project."""
    return str((await cloud.v3("GET", "/projects?name=demo", admin)).json()["projects"][0]["id"])


# What ends a token. Each is seen by the gateway at once, though it had remembered the token.


async def revoked(cloud: Cloud, prepared: Prepared) -> None:
    assert (await cloud.v3("DELETE", "/auth/tokens", prepared.alice, subject=prepared.alice)).status_code == 204


async def revoked_by_an_administrator(cloud: Cloud, prepared: Prepared) -> None:
    assert (await cloud.v3("DELETE", "/auth/tokens", prepared.admin, subject=prepared.alice)).status_code == 204


async def disabled(cloud: Cloud, prepared: Prepared) -> None:
    change = {"user": {"enabled": False}}
    assert (await cloud.v3("PATCH", f"/users/{prepared.alice_id}", prepared.admin, change)).status_code == 200


async def deleted(cloud: Cloud, prepared: Prepared) -> None:
    assert (await cloud.v3("DELETE", f"/users/{prepared.alice_id}", prepared.admin)).status_code == 204


async def password_set(cloud: Cloud, prepared: Prepared) -> None:
    change = {"user": {"password": "another"}}
    assert (await cloud.v3("PATCH", f"/users/{prepared.alice_id}", prepared.admin, change)).status_code == 200


async def password_changed(cloud: Cloud, prepared: Prepared) -> None:
    change = {"user": {"password": "another", "original_password": "pw"}}
    assert (await cloud.v3("POST", f"/users/{prepared.alice_id}/password", body=change)).status_code == 204


async def project_disabled(cloud: Cloud, prepared: Prepared) -> None:
    elsewhere = await another_project(cloud, prepared)
    change = {"project": {"enabled": False}}
    assert (await cloud.v3("PATCH", f"/projects/{await demo(cloud, elsewhere)}", elsewhere, change)).status_code == 200


async def project_deleted(cloud: Cloud, prepared: Prepared) -> None:
    elsewhere = await another_project(cloud, prepared)
    assert (await cloud.v3("DELETE", f"/projects/{await demo(cloud, elsewhere)}", elsewhere)).status_code == 204


async def last_role_withdrawn(cloud: Cloud, prepared: Prepared) -> None:
    path = f"/projects/{await demo(cloud, prepared.admin)}/users/{prepared.alice_id}/roles/{ROLE_IDS['member']}"
    assert (await cloud.v3("DELETE", path, prepared.admin)).status_code == 204


async def another_project(cloud: Cloud, prepared: Prepared) -> str:
    """A token of the administrator for another project than the one that is about to go."""
    project = await cloud.made(prepared.admin, "/projects", "project", name="elsewhere")
    admin = (await cloud.v3("GET", "/users?name=admin", prepared.admin)).json()["users"][0]
    path = f"/projects/{project['id']}/users/{admin['id']}/roles/{ROLE_IDS['admin']}"
    assert (await cloud.v3("PUT", path, prepared.admin)).status_code == 204
    answer = await cloud.by_token(prepared.admin, {"project": {"id": project["id"]}})
    return answer.headers["X-Subject-Token"]


END = Callable[[Cloud, Prepared], Coroutine[Any, Any, None]]
ENDS = [
    revoked, revoked_by_an_administrator, disabled, deleted, password_set, password_changed, project_disabled,
    project_deleted, last_role_withdrawn,
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_a_token_is_good_until(cloud: Cloud, prepared: Prepared, end: END) -> None:
    assert (await cloud.who(prepared.alice)).status_code == 200
    await end(cloud, prepared)
    assert (await cloud.who(prepared.alice)).status_code == 401
    assert (await cloud.v3("GET", "/auth/projects", prepared.alice)).status_code == 401


async def test_roles_count_as_they_are_now(cloud: Cloud, prepared: Prepared) -> None:
    grants = f"/projects/{await demo(cloud, prepared.admin)}/users/{prepared.alice_id}/roles"
    assert (await cloud.who(prepared.alice)).json()["roles"] == ["member", "reader"]
    await cloud.v3("PUT", f"{grants}/{ROLE_IDS['admin']}", prepared.admin)
    assert (await cloud.who(prepared.alice)).json()["roles"] == ["admin", "manager", "member", "reader"]
    assert (await cloud.v3("GET", "/users", prepared.alice)).status_code == 200
    await cloud.v3("DELETE", f"{grants}/{ROLE_IDS['admin']}", prepared.admin)
    assert (await cloud.who(prepared.alice)).json()["roles"] == ["member", "reader"]
    assert (await cloud.v3("GET", "/users", prepared.alice)).status_code == 403


async def test_revoking_one_token_leaves_the_others(cloud: Cloud, prepared: Prepared) -> None:
    other = (await cloud.by_token(prepared.alice)).headers["X-Subject-Token"]
    await revoked(cloud, prepared)
    assert (await cloud.who(other)).status_code == 200
    assert (await cloud.v3("DELETE", "/auth/tokens", other, subject=prepared.alice)).status_code == 404


async def test_a_revocation_is_kept_only_until_its_token_would_have_ended(cloud: Cloud, prepared: Prepared) -> None:
    async with cloud.database.transaction(EVERYTHING) as session:
        session.add(IdentityRevocation(audit_id="long ago", expires_at=1.0))
    await revoked(cloud, prepared)
    async with cloud.database.reading(EVERYTHING) as session:
        assert await session.get(IdentityRevocation, "long ago") is None


# Looking at tokens


async def test_a_token_is_shown_to_its_user_and_to_administrators(cloud: Cloud, prepared: Prepared) -> None:
    for viewer in (prepared.alice, prepared.admin):
        shown = await cloud.v3("GET", "/auth/tokens", viewer, subject=prepared.alice)
        assert shown.status_code == 200
        assert shown.json()["token"]["user"]["id"] == prepared.alice_id
        assert shown.headers["X-Subject-Token"] == prepared.alice
        assert "catalog" in shown.json()["token"]
    brief = await cloud.v3("GET", "/auth/tokens?nocatalog", prepared.alice, subject=prepared.alice)
    assert "catalog" not in brief.json()["token"]
    assert (await cloud.v3("HEAD", "/auth/tokens", prepared.alice, subject=prepared.alice)).status_code == 200
    assert (await cloud.v3("GET", "/auth/tokens", prepared.alice, subject=prepared.admin)).status_code == 403
    assert (await cloud.v3("DELETE", "/auth/tokens", prepared.alice, subject=prepared.admin)).status_code == 403
    assert (await cloud.v3("GET", "/auth/tokens", prepared.alice, subject="garbage")).status_code == 404
    assert (await cloud.v3("GET", "/auth/tokens", prepared.alice)).status_code == 404
    assert (await cloud.v3("GET", "/auth/tokens", subject=prepared.alice)).status_code == 401


# Application credentials


async def credential(cloud: Cloud, prepared: Prepared, token: str = "", **fields: Any) -> dict[str, Any]:
    path = f"/users/{prepared.alice_id}/application_credentials"
    return await cloud.made(token or prepared.alice, path, "application_credential", **({"name": "ci"} | fields))


async def token_by(cloud: Cloud, made: dict[str, Any]) -> str:
    answer = await cloud.by_credential({"id": made["id"], "secret": made["secret"]})
    assert answer.status_code == 201, answer.text
    return answer.headers["X-Subject-Token"]


async def test_an_application_credential_logs_in_with_the_chosen_roles(cloud: Cloud, prepared: Prepared) -> None:
    made = await credential(cloud, prepared, roles=[{"name": "reader"}])
    assert len(made["secret"]) > 40
    assert [role["name"] for role in made["roles"]] == ["reader"]
    answer = await cloud.by_credential({"id": made["id"], "secret": made["secret"]})
    token = answer.json()["token"]
    assert token["methods"] == ["application_credential"]
    assert token["application_credential"] == {"id": made["id"], "name": "ci", "restricted": True}
    assert token["project"]["name"] == "demo"
    who = await cloud.who(answer.headers["X-Subject-Token"])
    assert who.json() == {"user": "alice", "project": "demo", "roles": ["reader"]}
    path = f"/users/{prepared.alice_id}/application_credentials"
    shown = await cloud.v3("GET", f"{path}/{made['id']}", prepared.alice)
    assert "secret" not in shown.json()["application_credential"]
    for name, count in (("ci", 1), ("none", 0)):
        listed = await cloud.v3("GET", f"{path}?name={name}", prepared.alice)
        assert len(listed.json()["application_credentials"]) == count


async def test_it_can_be_named_by_its_user_and_name_and_keep_a_given_secret(cloud: Cloud, prepared: Prepared) -> None:
    await credential(cloud, prepared, secret="of my own", description="for ci")
    for user in ({"id": prepared.alice_id}, {"name": "alice", "domain": DEFAULT}):
        assert (await cloud.by_credential({"name": "ci", "secret": "of my own", "user": user})).status_code == 201
    nobody = {"name": "admin", "domain": DEFAULT}
    assert (await cloud.by_credential({"name": "ci", "secret": "of my own", "user": nobody})).status_code == 401
    assert (await cloud.by_credential({"name": "ci", "secret": "of my own"})).status_code == 401


async def test_its_token_carries_no_more_than_it_and_its_user_have(cloud: Cloud, prepared: Prepared) -> None:
    made = await credential(cloud, prepared)
    token = await token_by(cloud, made)
    grants = f"/projects/{await demo(cloud, prepared.admin)}/users/{prepared.alice_id}/roles"
    await cloud.v3("PUT", f"{grants}/{ROLE_IDS['admin']}", prepared.admin)
    assert (await cloud.who(token)).json()["roles"] == ["member", "reader"]
    await cloud.v3("PUT", f"{grants}/{ROLE_IDS['reader']}", prepared.admin)
    for role in ("admin", "member"):
        await cloud.v3("DELETE", f"{grants}/{ROLE_IDS[role]}", prepared.admin)
    assert (await cloud.who(token)).json()["roles"] == ["reader"]
    await cloud.v3("DELETE", f"{grants}/{ROLE_IDS['reader']}", prepared.admin)
    assert (await cloud.who(token)).status_code == 401
    assert (await cloud.by_credential({"id": made["id"], "secret": made["secret"]})).status_code == 401


async def test_without_the_credential_its_tokens_end(cloud: Cloud, prepared: Prepared) -> None:
    made = await credential(cloud, prepared)
    token = await token_by(cloud, made)
    assert (await cloud.who(token)).status_code == 200
    path = f"/users/{prepared.alice_id}/application_credentials/{made['id']}"
    assert (await cloud.v3("DELETE", path, prepared.alice)).status_code == 204
    assert (await cloud.who(token)).status_code == 401
    assert (await cloud.by_credential({"id": made["id"], "secret": made["secret"]})).status_code == 401
    assert (await cloud.v3("DELETE", path, prepared.alice)).status_code == 404


async def test_its_tokens_do_not_outlive_it(cloud: Cloud, prepared: Prepared) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    made = await credential(cloud, prepared, expires_at=soon.strftime("%Y-%m-%dT%H:%M:%S"))
    answer = await cloud.by_credential({"id": made["id"], "secret": made["secret"]})
    assert datetime.fromisoformat(answer.json()["token"]["expires_at"]) <= soon


async def test_a_restricted_credential_makes_no_other_and_an_unrestricted_one_does(
    cloud: Cloud, prepared: Prepared
) -> None:
    path = f"/users/{prepared.alice_id}/application_credentials"
    plain = await credential(cloud, prepared)
    token = await token_by(cloud, plain)
    assert (await cloud.v3("POST", path, token, {"application_credential": {"name": "more"}})).status_code == 403
    assert (await cloud.v3("DELETE", f"{path}/{plain['id']}", token)).status_code == 403
    assert (await cloud.by_token(token)).status_code == 403
    free = await credential(cloud, prepared, name="free", unrestricted=True, roles=[{"id": ROLE_IDS["reader"]}])
    token = await token_by(cloud, free)
    made = await credential(cloud, prepared, token, name="child")
    assert [role["name"] for role in made["roles"]] == ["reader"]
    more = {"application_credential": {"name": "grandchild", "roles": [{"name": "member"}]}}
    assert (await cloud.v3("POST", path, token, more)).status_code == 400


CREDENTIALS: dict[str, tuple[dict[str, Any], int]] = {
    "no name": ({}, 400),
    "a role it does not have": ({"name": "x", "roles": [{"name": "admin"}]}, 400),
    "a role that is not there": ({"name": "x", "roles": [{"name": "nothing"}]}, 400),
    "an unknown role id": ({"name": "x", "roles": [{"id": "nothing"}]}, 400),
    "no roles": ({"name": "x", "roles": []}, 400),
    "in the past": ({"name": "x", "expires_at": "2020-01-01T00:00:00"}, 400),
    "no time": ({"name": "x", "expires_at": "tomorrow"}, 400),
    "out of all time": ({"name": "x", "expires_at": "9999-12-31T23:59:59-23:59"}, 400),
    "rules": ({"name": "x", "access_rules": [{"path": "/v1/*", "method": "GET", "service": "container"}]}, 400),
    "a nul": ({"name": "x\0"}, 400),
    "truth as text": ({"name": "x", "unrestricted": "yes"}, 400),
}


@pytest.mark.parametrize("what", CREDENTIALS)
async def test_what_cannot_be_a_credential_is_refused(cloud: Cloud, prepared: Prepared, what: str) -> None:
    fields, status = CREDENTIALS[what]
    path = f"/users/{prepared.alice_id}/application_credentials"
    answer = await cloud.v3("POST", path, prepared.alice, {"application_credential": fields})
    assert answer.status_code == status
    error_of(answer)
    assert (await cloud.v3("GET", path, prepared.alice)).json()["application_credentials"] == []


async def test_credentials_are_made_by_their_user_only_and_for_a_project(cloud: Cloud, prepared: Prepared) -> None:
    path = f"/users/{prepared.alice_id}/application_credentials"
    body = {"application_credential": {"name": "x"}}
    assert (await cloud.v3("POST", path, prepared.admin, body)).status_code == 403
    unscoped = (await cloud.by_token(prepared.alice, "unscoped")).headers["X-Subject-Token"]
    assert (await cloud.v3("POST", path, unscoped, body)).status_code == 400


# Guessing


async def test_ten_wrong_passwords_close_an_account_for_the_right_one_too(cloud: Cloud) -> None:
    tries = [cloud.by_password("alice", f"wrong{number}") for number in range(10)]
    assert {answer.status_code for answer in await asyncio.gather(*tries)} == {401}
    refused = await cloud.by_password("alice", "pw")
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "60"
    error_of(refused)
    assert (await cloud.by_password("admin", PASSWORD)).status_code == 201


async def test_an_account_that_does_not_exist_closes_just_the_same(cloud: Cloud) -> None:
    tries = [cloud.by_password("nobody", "wrong") for _ in range(10)]
    assert {answer.status_code for answer in await asyncio.gather(*tries)} == {401}
    assert (await cloud.by_password("nobody", "wrong")).status_code == 429


async def test_a_right_password_forgives_the_wrong_ones(cloud: Cloud) -> None:
    for _ in range(2):
        tries = [cloud.by_password("alice", "wrong") for _ in range(6)]
        assert {answer.status_code for answer in await asyncio.gather(*tries)} == {401}
        assert (await cloud.by_password("alice", "pw")).status_code == 201


async def test_a_rush_of_logins_is_cut_off_and_not_queued_without_end(cloud: Cloud) -> None:
    rush = await asyncio.gather(*(cloud.by_password(f"user{number}", "pw") for number in range(40)))
    assert [answer.status_code for answer in rush].count(401) == 32
    cut = [answer for answer in rush if answer.status_code == 503]
    assert len(cut) == 8
    assert {answer.headers["Retry-After"] for answer in cut} == {"5"}


async def test_the_old_password_must_be_right_to_set_a_new_one(cloud: Cloud, prepared: Prepared) -> None:
    change = {"user": {"password": "another", "original_password": "wrong"}}
    path = f"/users/{prepared.alice_id}/password"
    assert (await cloud.v3("POST", path, prepared.alice, change)).status_code == 401
    assert (await cloud.v3("POST", "/users/nobody/password", body=change)).status_code == 401
    assert (await cloud.v3("POST", path, body={"user": {"password": "another"}})).status_code == 400
    change["user"]["original_password"] = "pw"
    assert (await cloud.v3("POST", path, body=change)).status_code == 204
    assert (await cloud.by_password("alice", "pw")).status_code == 401
    assert (await cloud.by_password("alice", "another")).status_code == 201


async def test_a_user_without_a_password_cannot_log_in(cloud: Cloud, prepared: Prepared) -> None:
    await cloud.made(prepared.admin, "/users", "user", name="robot")
    async with cloud.database.reading(EVERYTHING) as session:
        robot = (await session.exec(select(IdentityUser).where(IdentityUser.name == "robot"))).one()
    for guess in (robot.password_hash, "None", " "):
        assert (await cloud.by_password("robot", guess)).status_code == 401


# Who may do what

X = "00000000000000000000000000000000"
ADMIN_ONLY = [
    ("GET", "/users"), ("POST", "/users"), ("GET", f"/users/{X}"), ("PATCH", f"/users/{X}"), ("DELETE", f"/users/{X}"),
    ("GET", f"/users/{X}/projects"), ("GET", f"/users/{X}/application_credentials"),
    ("GET", f"/users/{X}/application_credentials/{X}"), ("DELETE", f"/users/{X}/application_credentials/{X}"),
    ("GET", "/projects"), ("POST", "/projects"), ("GET", f"/projects/{X}"), ("PATCH", f"/projects/{X}"),
    ("DELETE", f"/projects/{X}"), ("GET", f"/projects/{X}/users/{X}/roles"),
    ("PUT", f"/projects/{X}/users/{X}/roles/{X}"), ("GET", f"/projects/{X}/users/{X}/roles/{X}"),
    ("HEAD", f"/projects/{X}/users/{X}/roles/{X}"), ("DELETE", f"/projects/{X}/users/{X}/roles/{X}"),
    ("POST", "/roles"), ("PATCH", f"/roles/{X}"), ("DELETE", f"/roles/{X}"), ("GET", "/role_assignments"),
    ("GET", f"/role_assignments?user.id={X}"),
]  # fmt: skip
ANY_TOKEN = [
    "/auth/projects", "/auth/catalog", "/roles", "/role_inferences", "/domains", "/domains/default", "/regions",
    "/regions/RegionOne", "/services", "/endpoints",
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
async def test_only_administrators_manage(cloud: Cloud, prepared: Prepared, method: str, path: str) -> None:
    assert (await cloud.v3(method, path)).status_code == 401
    assert (await cloud.v3(method, path, prepared.alice)).status_code == 403
    assert (await cloud.v3(method, path, prepared.admin)).status_code not in (401, 500)


@pytest.mark.parametrize("path", ANY_TOKEN)
async def test_every_user_reads_what_clients_need(cloud: Cloud, prepared: Prepared, path: str) -> None:
    assert (await cloud.v3("GET", path)).status_code == 401
    assert (await cloud.v3("GET", path, prepared.alice)).status_code == 200
    assert (await cloud.v3("HEAD", path, prepared.alice)).status_code == 200


async def test_users_see_themselves(cloud: Cloud, prepared: Prepared) -> None:
    me = f"/users/{prepared.alice_id}"
    assert (await cloud.v3("GET", me, prepared.alice)).json()["user"]["name"] == "alice"
    projects = (await cloud.v3("GET", f"{me}/projects", prepared.alice)).json()["projects"]
    assert [project["name"] for project in projects] == ["demo"]
    assert (await cloud.v3("GET", f"/projects/{projects[0]['id']}", prepared.alice)).status_code == 200
    mine = await cloud.v3("GET", f"/role_assignments?user.id={prepared.alice_id}&effective", prepared.alice)
    assert [one["role"]["id"] for one in mine.json()["role_assignments"]] == [ROLE_IDS["member"], ROLE_IDS["reader"]]
    assert (await cloud.v3("PATCH", me, prepared.alice, {"user": {"enabled": True}})).status_code == 403


@pytest.mark.parametrize("path", ["/nothing", "/groups", "/auth", "/users/a/b/c", "/projects/%00", "/users/%00"])
async def test_an_unknown_path_is_404_in_keystones_shape(cloud: Cloud, prepared: Prepared, path: str) -> None:
    answer = await cloud.v3("GET", path, prepared.admin)
    assert answer.status_code == 404
    error_of(answer)


async def test_a_wrong_method_is_405_in_keystones_shape(cloud: Cloud) -> None:
    answer = await cloud.v3("PUT", "/auth/tokens")
    assert answer.status_code == 405
    error_of(answer)


# Rows, on both databases


async def test_users_live(either: Cloud) -> None:
    admin = await either.token()
    made = await either.made(admin, "/users", "user", name="bob", password="pw", email="ignored@example.org")
    path = f"/users/{made['id']}"
    assert made["links"] == {"self": f"http://127.0.0.1:9517/identity/v3{path}"}
    assert made | {"id": "", "links": {}} == {
        "id": "", "name": "bob", "domain_id": "default", "enabled": True,
        "password_expires_at": None, "options": {}, "links": {},
    }  # fmt: skip
    assert [user["name"] for user in (await either.v3("GET", "/users?name=bob", admin)).json()["users"]] == ["bob"]
    assert (await either.v3("GET", "/users?name=b%00b", admin)).json()["users"] == []
    assert (await either.v3("GET", "/users?domain_id=other", admin)).json()["users"] == []
    twice = await either.v3("POST", "/users", admin, {"user": {"name": "bob"}})
    assert twice.status_code == 409
    error_of(twice)
    taken = await either.v3("PATCH", path, admin, {"user": {"name": "admin"}})
    assert taken.status_code == 409
    renamed = await either.v3("PATCH", path, admin, {"user": {"name": "rob", "enabled": False, "domain_id": "default"}})
    assert (renamed.json()["user"]["name"], renamed.json()["user"]["enabled"]) == ("rob", False)
    assert (await either.by_password("rob", "pw")).status_code == 401
    assert [user["name"] for user in (await either.v3("GET", "/users?enabled=false", admin)).json()["users"]] == ["rob"]
    assert (await either.v3("DELETE", path, admin)).status_code == 204
    assert (await either.v3("GET", path, admin)).status_code == 404
    assert (await either.v3("DELETE", path, admin)).status_code == 404


async def test_projects_live(either: Cloud) -> None:
    admin = await either.token()
    made = await either.made(admin, "/projects", "project", name="lab", description="a place", parent_id="default")
    path = f"/projects/{made['id']}"
    assert made | {"id": "", "links": {}} == {
        "id": "", "name": "lab", "description": "a place", "enabled": True, "domain_id": "default",
        "parent_id": "default", "is_domain": False, "options": {}, "tags": [], "links": {},
    }  # fmt: skip
    assert (await either.v3("POST", "/projects", admin, {"project": {"name": "lab"}})).status_code == 409
    changed = await either.v3("PATCH", path, admin, {"project": {"description": None}})
    assert changed.json()["project"]["description"] == ""
    assert (await either.v3("GET", "/projects?is_domain=true", admin)).json()["projects"] == []
    names = [project["name"] for project in (await either.v3("GET", "/projects", admin)).json()["projects"]]
    assert names == ["demo", "lab"]
    assert (await either.v3("DELETE", path, admin)).status_code == 204
    assert (await either.v3("GET", path, admin)).status_code == 404


async def test_grants_and_credentials_go_with_their_user_and_project(either: Cloud) -> None:
    admin = await either.token()
    alice = await either.member(admin)
    project = await demo(either, admin)
    lab = (await either.made(admin, "/projects", "project", name="lab"))["id"]
    grants = f"/projects/{lab}/users/{alice}/roles"
    for _ in range(2):  # giving a role twice is fine
        assert (await either.v3("PUT", f"{grants}/{ROLE_IDS['reader']}", admin)).status_code == 204
    assert (await either.v3("HEAD", f"{grants}/{ROLE_IDS['reader']}", admin)).status_code == 204
    assert (await either.v3("HEAD", f"{grants}/{ROLE_IDS['admin']}", admin)).status_code == 404
    assert [role["name"] for role in (await either.v3("GET", grants, admin)).json()["roles"]] == ["reader"]
    listed = await either.v3("GET", f"/role_assignments?user.id={alice}&include_names=true", admin)
    found = {(one["scope"]["project"]["name"], one["role"]["name"]) for one in listed.json()["role_assignments"]}
    assert found == {("demo", "member"), ("lab", "reader")}
    only = await either.v3("GET", f"/role_assignments?role.id={ROLE_IDS['reader']}&scope.project.id={lab}", admin)
    assert [one["user"] for one in only.json()["role_assignments"]] == [{"id": alice}]
    token = await either.token("alice", "pw", {"project": {"id": lab}})
    path = f"/users/{alice}/application_credentials"
    for name in ("a", "b"):
        await either.made(token, path, "application_credential", name=name)
    assert (await either.v3("POST", path, token, {"application_credential": {"name": "a"}})).status_code == 409
    assert (await either.v3("DELETE", f"/projects/{lab}", admin)).status_code == 204
    assert (await either.v3("GET", path, admin)).json()["application_credentials"] == []
    assert (await either.v3("GET", grants, admin)).status_code == 404
    assert (await either.v3("DELETE", f"/users/{alice}", admin)).status_code == 204
    left = await either.v3("GET", f"/role_assignments?scope.project.id={project}&user.id={alice}", admin)
    assert left.json()["role_assignments"] == []
    for user, place in ((alice, project), (X, project), (alice, X)):
        answer = await either.v3("PUT", f"/projects/{place}/users/{user}/roles/{ROLE_IDS['reader']}", admin)
        assert answer.status_code == 404


async def test_a_revoked_token_ends_on_either_database(either: Cloud) -> None:
    admin = await either.token()
    assert (await either.who(admin)).status_code == 200
    token = await either.identity.read(admin)
    await asyncio.gather(*(either.identity.revoke(token) for _ in range(3)))
    assert (await either.who(admin)).status_code == 401


async def test_one_name_given_twice_at_once_is_given_once(either: Cloud) -> None:
    admin = await either.token()
    rush = await asyncio.gather(
        *(either.v3("POST", "/projects", admin, {"project": {"name": "lab"}}) for _ in range(6))
    )
    assert sorted(answer.status_code for answer in rush) == [201, 409, 409, 409, 409, 409]
    user = (await either.v3("GET", "/auth/tokens", admin, subject=admin)).json()["token"]["user"]["id"]
    path = f"/users/{user}/application_credentials"
    rush = await asyncio.gather(
        *(either.v3("POST", path, admin, {"application_credential": {"name": "ci"}}) for _ in range(4))
    )
    assert sorted(answer.status_code for answer in rush) == [201, 409, 409, 409]


BAD_ROWS: list[tuple[str, dict[str, Any], int]] = [
    ("/users", {"user": {}}, 400),
    ("/users", {"user": {"name": ""}}, 400),
    ("/users", {"user": {"name": "a\nb"}}, 400),
    ("/users", {"user": {"name": "a" * 256}}, 400),
    ("/users", {"user": {"name": "bob", "enabled": "yes"}}, 400),
    ("/users", {"user": {"name": "bob", "domain_id": "other"}}, 404),
    ("/users", {"name": "bob"}, 400),
    ("/projects", {"project": {}}, 400),
    ("/projects", {"project": {"name": "a" * 65}}, 400),
    ("/projects", {"project": {"name": "x", "is_domain": True}}, 400),
    ("/projects", {"project": {"name": "x", "parent_id": X}}, 400),
    ("/projects", {"project": {"name": "x", "domain_id": "other"}}, 404),
    ("/projects", {"project": {"name": "x", "description": "a\0b"}}, 400),
    ("/roles", {"role": {"name": "boss"}}, 403),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD_ROWS, ids=str)
async def test_a_bad_row_is_refused_and_leaves_nothing(
    cloud: Cloud, prepared: Prepared, path: str, body: dict[str, Any], status: int
) -> None:
    before = (await cloud.v3("GET", path, prepared.admin)).json()
    answer = await cloud.v3("POST", path, prepared.admin, body)
    assert answer.status_code == status
    error_of(answer)
    assert (await cloud.v3("GET", path, prepared.admin)).json() == before


@pytest.mark.parametrize(
    "change", [{"name": None}, {"password": None}, {"enabled": None}, {"domain_id": "other"}], ids=str
)
async def test_a_bad_change_changes_nothing(cloud: Cloud, prepared: Prepared, change: dict[str, Any]) -> None:
    path = f"/users/{prepared.alice_id}"
    before = (await cloud.v3("GET", path, prepared.admin)).json()
    assert (await cloud.v3("PATCH", path, prepared.admin, {"user": change})).status_code in (400, 404)
    assert (await cloud.v3("GET", path, prepared.admin)).json() == before
    assert (await cloud.who(prepared.alice)).status_code == 200


async def test_the_catalogues_rows(cloud: Cloud, prepared: Prepared) -> None:
    services = (await cloud.v3("GET", "/services?type=container", prepared.admin)).json()["services"]
    assert [service["name"] for service in services] == ["zun"]
    path = f"/endpoints?service_id={services[0]['id']}&interface=public"
    endpoint = (await cloud.v3("GET", path, prepared.admin)).json()["endpoints"][0]
    assert endpoint["url"] == "http://127.0.0.1:9517/container/v1"
    one = await cloud.v3("GET", f"/endpoints/{endpoint['id']}", prepared.admin)
    assert one.json()["endpoint"]["id"] == endpoint["id"]
    assert (await cloud.v3("GET", f"/services/{services[0]['id']}", prepared.admin)).status_code == 200
    assert (await cloud.v3("GET", f"/services/{X}", prepared.admin)).status_code == 404
    inferences = (await cloud.v3("GET", "/role_inferences", prepared.admin)).json()["role_inferences"]
    assert [(one["prior_role"]["name"], one["implies"][0]["name"]) for one in inferences] == [
        ("admin", "manager"), ("manager", "member"), ("member", "reader"),
    ]  # fmt: skip
