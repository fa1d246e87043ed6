"""Images on hosts, and private registries."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from app.backends.engine import RegistryLogin
from app.models import Image, Registry
from app.vault import Vault
from tests.api.caisson import Caisson, error_of, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def settled(caisson: Caisson, uuid: str) -> dict[str, Any]:
    shown: dict[str, Any] = {}

    async def ended() -> bool:
        nonlocal shown
        idle = not await caisson.unfinished(uuid)  # asked first, or what is shown may be older than the end
        shown = await caisson.ok("GET", f"/v1/images/{uuid}", who="admin")
        return shown["status"] not in ("Creating", "Deleting") and idle

    await eventually(ended, lambda: f"the image is still {shown.get('status')}")
    return shown


async def pulled(caisson: Caisson, repo: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = await caisson.ok(
        "POST", "/v1/images", {"repo": repo, "host": "local-host"} | more, who="admin"
    )
    return made


async def test_pull_list_show_delete(caisson: Caisson) -> None:
    repo = f"lab/{uuid4().hex}"
    caisson.engine.publish(f"{repo}:2")
    answer = await caisson.call("POST", "/v1/images", {"repo": f"{repo}:2", "host": "local-host"}, who="admin")
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"http://test/v1/images/{made['uuid']}"
    assert {name: made[name] for name in ("image_id", "size", "repo", "tag", "host")} == {
        "image_id": None, "size": None, "repo": repo, "tag": "2", "host": "local-host",
    }  # fmt: skip
    shown = await settled(caisson, made["uuid"])
    assert shown["image_id"].startswith("sha256:")
    assert shown["size"] == str(1024 * 1024)
    assert shown["links"] == [
        {"href": f"http://test/v1/images/{made['uuid']}", "rel": "self"},
        {"href": f"http://test/images/{made['uuid']}", "rel": "bookmark"},
    ]
    listed = await caisson.ok("GET", "/v1/images?nonsense=1", who="admin")
    assert shown in listed["images"]
    assert await caisson.engine.image(f"{repo}:2") is not None

    answer = await caisson.call("DELETE", f"/v1/images/{made['uuid']}", who="admin")
    assert (answer.status_code, answer.text) == (200, "null")

    async def gone() -> bool:
        return (await caisson.call("GET", f"/v1/images/{made['uuid']}", who="admin")).status_code == 404

    await eventually(gone, lambda: "the image is still there")
    assert await caisson.engine.image(f"{repo}:2") is None


@pytest.mark.parametrize(
    ("repo", "tag", "shown"),
    [
        ("{}", None, ("{}", "latest")),
        ("{}", "3", ("{}", "3")),
        ("{}:1", "3", ("{}", "1")),
        ("127.0.0.1:5000/x/{}", None, ("127.0.0.1:5000/x/{}", "latest")),
    ],
)
async def test_repo_and_tag(caisson: Caisson, repo: str, tag: str | None, shown: tuple[str, str]) -> None:
    name = f"lab/{uuid4().hex}"
    made = await pulled(caisson, repo.format(name), **({} if tag is None else {"tag": tag}))
    assert (made["repo"], made["tag"]) == (shown[0].format(name), shown[1])


async def test_an_image_is_pulled_to_a_host_once(caisson: Caisson) -> None:
    repo = f"lab/{uuid4().hex}"
    caisson.engine.publish(repo)
    made = await pulled(caisson, repo)
    body = {"repo": f"{repo}:latest", "host": "local-host"}
    error = error_of(await caisson.call("POST", "/v1/images", body, who="admin"), 409, "image-already-exists")
    assert made["uuid"] in error["title"]


async def test_a_pull_that_fails_says_why(caisson: Caisson) -> None:
    shown = await settled(caisson, (await pulled(caisson, f"lab/{uuid4().hex}"))["uuid"])
    assert shown["status"] == "Error"
    assert "manifest unknown" in shown["status_reason"]


async def test_an_image_in_use_stays(caisson: Caisson) -> None:
    repo = f"lab/{uuid4().hex}"
    caisson.engine.publish(repo)
    image = await settled(caisson, (await pulled(caisson, repo))["uuid"])
    await caisson.made(image=repo)
    await caisson.ok("DELETE", f"/v1/images/{image['uuid']}", who="admin")
    shown = await settled(caisson, image["uuid"])
    assert shown["status"] == "Error"
    assert "a container uses it" in shown["status_reason"]


@pytest.mark.parametrize("ident", ["nope", "00000000-0000-4000-8000-000000000000", "x" * 3000, "search"])
async def test_unknown_images(standing: Caisson, ident: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await standing.call(method, f"/v1/images/{ident}", who="admin")
        error_of(answer, 404, "image-not-found")


async def test_images_are_the_administrators(caisson: Caisson) -> None:
    repo = f"lab/{uuid4().hex}"
    caisson.engine.publish(repo)
    uuid = (await pulled(caisson, repo))["uuid"]
    body = {"repo": repo, "host": "local-host"}
    for who in ("member", "reader"):
        for method, path, sent in (
            ("GET", "/v1/images", None), ("GET", f"/v1/images/{uuid}", None), ("DELETE", f"/v1/images/{uuid}", None),
            ("POST", "/v1/images", body), ("GET", "/v1/images/nope", None),
        ):  # fmt: skip
            error_of(await caisson.call(method, path, sent, who=who), 403, "policy-not-authorized")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["'repo' is a required property"]),
        ({"repo": "x/y"}, ["'host' is a required property"]),
        ({"repo": "x", "host": "local-host"}, ["repo", "2"]),
        ({"repo": "r" * 256, "host": "local-host"}, ["repo", "255"]),
        ({"repo": "Bad Name", "host": "local-host"}, ["repo"]),
        ({"repo": "x/y\n", "host": "local-host"}, ["repo"]),
        ({"repo": 5, "host": "local-host"}, ["repo"]),
        ({"repo": "x/y", "host": "nowhere"}, ["host", "nowhere"]),
        ({"repo": "x/y", "host": "h" * 300}, ["host", "255"]),
        ({"repo": "x/y", "host": "local-host", "tag": "bad tag"}, ["tag"]),
        ({"repo": "x/y", "host": "local-host", "tag": "t" * 200}, ["tag", "128"]),
        ({"repo": "x/y", "host": "local-host", "size": "big"}, ["size"]),
        ({"repo": "x/y", "host": "local-host", "bogus": 1}, ["bogus"]),
    ],
)
async def test_bad_pulls(standing: Caisson, body: dict[str, Any], words: list[str]) -> None:
    before = len(await standing.running.rows(Image))
    answer = await standing.call("POST", "/v1/images", body, who="admin")
    assert answer.status_code == 400
    assert [word for word in words if word not in answer.json()["errors"][0]["title"]] == []
    assert len(await standing.running.rows(Image)) == before


async def test_search(caisson: Caisson) -> None:
    tag = uuid4().hex
    caisson.engine.publish(f"127.0.0.1:5000/{tag}/one")
    caisson.engine.publish(f"127.0.0.1:5000/{tag}/two")
    found = await caisson.ok("GET", f"/v1/images/{tag}/search?image_driver=docker", who="reader")
    assert [image["name"] for image in found] == [f"127.0.0.1:5000/{tag}/one", f"127.0.0.1:5000/{tag}/two"]
    assert all(set(image) == {"name", "description", "is_automated", "metadata"} for image in found)
    assert set(found[0]["metadata"]) == {"is_official", "star_count"}
    name = f"127.0.0.1:5000/{tag}/one"
    exact = await caisson.ok("GET", f"/v1/images/{name}/search?exact_match=true")
    assert [image["name"] for image in exact] == [name]
    assert await caisson.ok("GET", f"/v1/images/{uuid4().hex}/search?exact_match=False") == []
    error_of(await caisson.call("GET", "/v1/images/x/search?image_driver=glance"), 501, "unsupported")
    for query in ("exact_match=maybe", "bogus=1", "image_driver=" + "x" * 100):
        error_of(await caisson.call("GET", f"/v1/images/x/search?{query}"), 400, "schema-validation-error")


# Registries

SHOWN = {"uuid", "links", "user_id", "project_id", "name", "domain", "username", "password"}
SECRET = "correct horse"


async def registered(caisson: Caisson, who: str = "member", **fields: Any) -> dict[str, Any]:
    body = {"registry": {"domain": "127.0.0.1:5000", "name": "reg1", "username": "u", "password": SECRET} | fields}
    made: dict[str, Any] = (await caisson.ok("POST", "/v1/registries", body, who=who))["registry"]
    return made


async def test_registry_life(caisson: Caisson) -> None:
    body = {"registry": {"domain": "127.0.0.1:5000", "name": "reg1", "username": "u", "password": SECRET}}
    answer = await caisson.call("POST", "/v1/registries", body)
    assert answer.status_code == 201
    made = answer.json()["registry"]
    assert answer.headers["location"] == f"http://test/v1/registries/{made['uuid']}"
    assert set(made) == SHOWN
    assert made["password"] == "***"
    for ident in ("reg1", made["uuid"]):
        assert (await caisson.ok("GET", f"/v1/registries/{ident}", who="reader"))["registry"] == made
    listed = await caisson.ok("GET", "/v1/registries")
    assert listed == {"registries": [{k: v for k, v in made.items() if k != "links"}], "next": None}
    changed = await caisson.ok("PATCH", "/v1/registries/reg1", {"registry": {"name": "reg2", "password": "other"}})
    assert changed["registry"] == made | {"name": "reg2"}
    assert (await caisson.ok("PATCH", "/v1/registries/reg2", {"registry": {}}))["registry"] == changed["registry"]
    answer = await caisson.call("DELETE", "/v1/registries/reg2")
    assert (answer.status_code, answer.content) == (204, b"")
    error_of(await caisson.call("GET", "/v1/registries/reg2"), 404, "registry-not-found")


async def test_passwords_are_encrypted_and_never_shown(caisson: Caisson) -> None:
    made = await registered(caisson)
    answers = [
        await caisson.call("GET", "/v1/registries", who="admin"),
        await caisson.call("GET", f"/v1/registries/{made['uuid']}", who="admin"),
        await caisson.call("PATCH", "/v1/registries/reg1", {"registry": {"password": SECRET}}),
        await caisson.call("POST", "/v1/containers", {"image": "lab/one", "registry": "reg1"}),
    ]
    assert not [answer.text for answer in answers if SECRET in answer.text]
    (row,) = await caisson.running.rows(Registry, Registry.uuid == made["uuid"])
    assert row.password is not None
    assert SECRET not in row.password
    assert Vault("key").open(row.password) == SECRET
    without = await registered(caisson, name="open", username=None, password=None)
    assert without["password"] == "***"
    for action in await caisson.actions(answers[-1].json()["uuid"]):
        assert SECRET not in f"{action.args} {action.memo} {action.message}"


async def test_a_container_pulls_with_its_registrys_login(caisson: Caisson) -> None:
    login = RegistryLogin("127.0.0.1:5000", "u", SECRET)
    path = f"private/{uuid4().hex}"
    caisson.engine.publish(f"127.0.0.1:5000/{path}:1", login, command=("sleep", "9"))
    registry = await registered(caisson)
    # The registry's domain goes before an image that names none.
    for number, image in enumerate((f"{path}:1", f"127.0.0.1:5000/{path}:1")):
        made = await caisson.made(image=image, registry=("reg1", registry["uuid"])[number])
        assert made["image"] == f"127.0.0.1:5000/{path}:1"
        assert made["registry_id"] == registry["uuid"]
        await caisson.engine.remove(str((await caisson.engine.find(UUID(made["uuid"]))).ref), True)  # type: ignore[union-attr]  # it is there
        await caisson.engine.remove_image(image)
    uuid = (await caisson.create(image=f"127.0.0.1:5000/{path}:1"))["uuid"]
    assert "no basic auth credentials" in (await caisson.until(uuid, "Error"))["status_reason"]
    error = error_of(await caisson.call("DELETE", "/v1/registries/reg1"), 409, "conflict")
    assert "in use" in error["title"]


async def test_a_registry_of_another_project_is_unknown(caisson: Caisson) -> None:
    theirs = await registered(caisson, who="foreign", name="theirs")
    for ident in ("theirs", theirs["uuid"]):
        for method, body in (("GET", None), ("PATCH", {"registry": {"name": "mine"}}), ("DELETE", None)):
            error_of(await caisson.call(method, f"/v1/registries/{ident}", body), 404, "registry-not-found")
        answer = await caisson.call("POST", "/v1/containers", {"image": "lab/one", "registry": ident})
        error_of(answer, 404, "registry-not-found")
    assert (await caisson.ok("GET", "/v1/registries"))["registries"] == []
    # Administrators reach it, but cannot use it for a container of their own project.
    assert (await caisson.ok("GET", f"/v1/registries/{theirs['uuid']}", who="admin"))["registry"] == theirs
    answer = await caisson.call("POST", "/v1/containers", {"image": "lab/one", "registry": theirs["uuid"]}, who="admin")
    error_of(answer, 404, "registry-not-found")
    assert (await caisson.call("DELETE", f"/v1/registries/{theirs['uuid']}", who="admin")).status_code == 204


async def test_lists_of_registries(caisson: Caisson) -> None:
    for number in range(3):
        await registered(caisson, name=f"r{number}", domain=f"d{number % 2}.example")
    await registered(caisson, who="foreign", name="theirs")

    async def names(query: str, who: str = "member") -> list[str]:
        answer = await caisson.ok("GET", f"/v1/registries?{query}", who=who)
        return [registry["name"] for registry in answer["registries"]]

    assert await names("") == ["r0", "r1", "r2"]
    assert await names("domain=d0.example") == ["r0", "r2"]
    assert await names("name=r1&username=u") == ["r1"]
    assert await names("sort_key=name&sort_dir=desc&limit=2") == ["r2", "r1"]
    project = await caisson.project("beta")
    assert await names(f"all_projects=1&project_id={project}", who="admin") == ["theirs"]
    for query, status in (("bogus=1", 400), ("limit=0", 400), ("marker=nope", 404), ("all_projects=1", 403)):
        assert (await caisson.call("GET", f"/v1/registries?{query}")).status_code == status


async def test_names_of_registries_may_be_ambiguous(caisson: Caisson) -> None:
    first, _ = await registered(caisson), await registered(caisson)
    error_of(await caisson.call("GET", "/v1/registries/reg1"), 409, "conflict")
    assert (await caisson.ok("GET", f"/v1/registries/{first['uuid']}"))["registry"] == first
    # A name that looks like another's uuid does not hide it.
    await registered(caisson, name=first["uuid"])
    assert (await caisson.ok("GET", f"/v1/registries/{first['uuid']}"))["registry"] == first


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"domain": None}, ["domain"]),
        ({"domain": ""}, ["domain", "1"]),
        ({"domain": "d" * 256}, ["domain", "255"]),
        ({"domain": 5}, ["domain"]),
        ({"name": "x"}, ["name", "2"]),
        ({"name": "n" * 256}, ["name", "255"]),
        ({"name": "bad name"}, ["name"]),
        ({"username": ""}, ["username", "1"]),
        ({"username": "a\u0007"}, ["username"]),
        ({"password": ""}, ["password", "1"]),
        ({"password": "p" * 5000}, ["password", "4096"]),
        ({"password": 5}, ["password"]),
        ({"bogus": 1}, ["bogus"]),
    ],
)
async def test_bad_registries(caisson: Caisson, fields: dict[str, Any], words: list[str]) -> None:
    for method, path in (("POST", "/v1/registries"), ("PATCH", "/v1/registries/nope")):
        if method == "PATCH" and fields == {"domain": None}:
            continue
        body = {"registry": {"domain": "d.example"} | fields}
        answer = await caisson.call(method, path, body)
        assert answer.status_code == 400
        title = answer.json()["errors"][0]["title"]
        assert [word for word in words if word not in title] == []
        if isinstance(secret := fields.get("password"), str) and secret:
            assert secret not in answer.text
            assert "pppp" not in answer.text
    await caisson.nothing_stored()


@pytest.mark.parametrize(
    "body",
    [{}, {"registry": None}, {"registry": [{"password": SECRET}]}, {"registry": "x"}, {"registry": {}}, [], None],
)
async def test_bodies_that_are_no_registry(caisson: Caisson, body: Any) -> None:
    answer = await caisson.call("POST", "/v1/registries", body, headers={"Content-Type": "application/json"})
    error_of(answer, 400, "schema-validation-error")
    assert SECRET not in answer.text
    await caisson.nothing_stored()
