"""Marked secrets go through the whole API; nothing that is written or told to others has one of the marks."""

import base64
import json
import logging
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from sqlmodel import SQLModel, select

from app.db import EVERYTHING
from app.errors import Refused
from app.models import ClusterKey, Registry
from app.sealed import SEALED
from app.settings import IdentitySettings, KeystoneSettings, Settings
from tests.api import caisson as place
from tests.api.caisson import ADMIN_PASSWORD, Caisson, Running
from tests.api.clusters import Clusters
from tests.marks import Marks, core

LOOKS = ("/v1/containers", "/v1/registries", "/v1/volumes", "/v1/capsules", "/container-infra/v1/clustertemplates")


@pytest_asyncio.fixture
async def private(database_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    """An application of this test's own, whose database can be read as a whole."""
    async with place.running(database_url, tmp_path) as running:
        yield running


async def drive(caisson: Caisson, marks: Marks) -> None:
    """Every way in that a secret has, well formed and not."""
    await _registries(caisson, marks)
    await _files(caisson, marks)
    await _tickets(caisson, marks)
    await _identity(caisson, marks)
    await _clusters(caisson, marks)
    for who in ("member", "admin", "foreign"):
        marks.add(f"token of {who}", await caisson.token(who))
        for path in LOOKS:
            marks.answer(f"{who} who lists", await caisson.call("GET", path, who=who))
        garbled = marks.new("a token that nobody knows")
        marks.answer("nobody", await caisson.call("GET", "/v1/containers", who=garbled))


async def _registries(caisson: Caisson, marks: Marks) -> None:
    password = marks.new("registry password")
    body = {"registry": {"domain": "127.0.0.1:1", "username": "u", "password": password}}
    answer = await caisson.call("POST", "/v1/registries", body)
    assert answer.status_code == 201
    marks.answer("owner of a registry", answer)
    uuid = answer.json()["registry"]["uuid"]
    newer = marks.new("changed registry password")
    answer = await caisson.call("PATCH", f"/v1/registries/{uuid}", {"registry": {"password": newer}})
    marks.answer("owner of a registry", answer)
    made = await caisson.create(image="127.0.0.1:1/x/y", registry=uuid)  # its login goes along, and fails
    await caisson.until(made["uuid"], "Error")
    marks.answer("owner", await caisson.call("GET", f"/v1/containers/{made['uuid']}"))
    marks.answer("owner", await caisson.call("GET", f"/v1/containers/{made['uuid']}/container_actions"))
    wrong: list[Any] = [
        {"registry": {"domain": "d", "username": "u", "password": [marks.new("password in a list")]}},
        {"registry": {"domain": "d", "username": {"password": marks.new("password in a map")}}},
        {"registry": {"password": marks.new("password without a domain")}},
        {"password": marks.new("password at the wrong place")},
    ]
    for body in wrong:
        answer = await caisson.call("POST", "/v1/registries", body)
        assert answer.status_code == 400
        marks.answer("who sent nonsense", answer)
    torn = json.dumps({"registry": {"domain": "d", "password": marks.new("password in a torn body")}})[:-1]
    marks.answer("who sent a torn body", await caisson.call("POST", "/v1/registries", raw=torn.encode()))


async def _files(caisson: Caisson, marks: Marks) -> None:
    content = base64.b64encode(marks.new("injected file").encode()).decode()
    mount = {"type": "bind", "source": content, "destination": "/etc/secret"}
    box = await caisson.made(run=True, mounts=[mount])
    marks.answer("owner of a file", await caisson.call("GET", f"/v1/containers/{box['uuid']}"))
    marks.answer("owner of a file", await caisson.call("GET", f"/v1/containers/{box['uuid']}/container_actions"))
    await caisson.ok("POST", f"/v1/containers/{box['uuid']}/rebuild")
    await caisson.until(box["uuid"], "Running")
    for source in (marks.new("content that is no base64"), {"a": marks.new("content in a map")}):
        wrong = {"image": place.BUSY, "mounts": [mount | {"source": source}]}
        answer = await caisson.call("POST", "/v1/containers", wrong)
        assert answer.status_code == 400
        marks.answer("who sent nonsense", answer)


async def _tickets(caisson: Caisson, marks: Marks) -> None:
    box = await caisson.made(run=True, interactive=True)
    for path in ("attach", "execute?command=sh&run=false&interactive=true"):
        answer = await caisson.call("GET" if path == "attach" else "POST", f"/v1/containers/{box['uuid']}/{path}")
        found = answer.json()
        url = found if isinstance(found, str) else found["proxy_url"]
        ticket = marks.add(f"ticket of {path}", parse_qs(urlsplit(url).query)["token"][0])
        marks.answer("who asked for a ticket", answer, ticket)


async def _identity(caisson: Caisson, marks: Marks) -> None:
    marks.add("password of the administrator", ADMIN_PASSWORD)
    admin = await caisson.token("admin")
    password = marks.new("user's password")

    async def call(method: str, path: str, body: Any, token: str = admin, *, but: tuple[str, ...] = ()) -> Any:
        headers = {"X-Auth-Token": token} if token else {}
        answer = await caisson.running.client.request(method, f"/identity/v3{path}", headers=headers, json=body)
        marks.answer(f"{method} {path}", answer, *but)
        return answer

    made = await call("POST", "/users", {"user": {"name": f"u-{secrets.token_hex(4)}", "password": password}})
    user = made.json()["user"]
    newer = marks.new("user's new password")
    change = {"user": {"original_password": password, "password": newer}}
    await call("POST", f"/users/{user['id']}/password", change, "")

    def login(given: Any, ident: str = user["id"]) -> dict[str, Any]:
        who = {"id": ident, "password": given}
        return {"auth": {"identity": {"methods": ["password"], "password": {"user": who}}}}

    answer = await caisson.running.client.post("/identity/v3/auth/tokens", json=login(newer))
    token = marks.add("token of a user", answer.headers["X-Subject-Token"])
    marks.answer("who logged in", answer, token)
    await call("POST", "/auth/tokens", login(marks.new("wrong password")), "")
    await call("POST", "/auth/tokens", login([marks.new("password in a list")]), "")
    await call("POST", "/auth/tokens", {"auth": {"password": marks.new("password at the wrong place")}}, "")
    typed = marks.new("password typed as a name")
    named = {"name": typed, "domain": {"id": "default"}, "password": "x"}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": named}}}}
    await call("POST", "/auth/tokens", body, "")

    member = await caisson.token("member")
    mine = caisson.running.logins["id of member"]
    given = marks.new("secret of a credential")
    credential = {"application_credential": {"name": f"c-{secrets.token_hex(4)}", "secret": given}}
    made = await call("POST", f"/users/{mine}/application_credentials", credential, member, but=(given,))
    ident = made.json()["application_credential"]["id"]
    await call("GET", f"/users/{mine}/application_credentials/{ident}", None, member)
    for secret in (given, marks.new("wrong secret of a credential")):
        method = {"methods": ["application_credential"], "application_credential": {"id": ident, "secret": secret}}
        answer = await caisson.running.client.post("/identity/v3/auth/tokens", json={"auth": {"identity": method}})
        if (token := answer.headers.get("X-Subject-Token")) is not None:
            marks.add("token of a credential", token)
            marks.answer("who logged in by credential", answer, token)
        else:
            marks.answer("who failed to log in", answer)


async def _clusters(caisson: Caisson, marks: Marks) -> None:
    clusters = Clusters(caisson)
    template = await clusters.template()
    uuid = await clusters.made(template)
    await _keys(caisson, marks, uuid)
    mine = ec.generate_private_key(ec.SECP256R1())
    key = mine.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    marks.add("key of a client", core(key))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(mine, hashes.SHA256())
    csr = asked.public_bytes(Encoding.PEM).decode()
    bodies: list[Any] = [
        {"cluster_uuid": uuid, "csr": csr},
        {"cluster_uuid": uuid, "csr": key},  # the wrong file
        {"cluster_uuid": uuid, "csr": f"{csr}{key}"},  # both
        {"cluster_uuid": uuid, "csr": [key]},
        {"cluster_uuid": uuid, "csr": csr, "key": key},
    ]
    statuses = []
    for body in bodies:
        answer = await clusters.ask("POST", "certificates", body)
        statuses.append(answer.status_code)
        marks.answer("who asks for a signature", answer)
    assert statuses == [201, 400, 400, 400, 400]
    for path in (
        f"certificates/{uuid}",
        f"certificates/{uuid}?ca_cert_type=etcd",
        f"clusters/{uuid}",
        "clusters/detail",
    ):
        for who in ("member", "admin", "foreign"):
            marks.answer(f"{who} who looks at {path}", await clusters.ask("GET", path, who=who))
    for kind in ("certificates", "credentials"):
        marks.answer(f"who rotates {kind}", await clusters.ask("PATCH", f"{kind}/{uuid}"))
    await clusters.until(uuid, "UPDATE_COMPLETE")
    await _keys(caisson, marks, uuid)
    caisson.running.driver().fail_next("converge", Refused("the engine said no"))
    failed = await clusters.create(template, name="red")
    await _keys(caisson, marks, failed)
    marks.answer("owner of a failed cluster", await clusters.ask("GET", f"clusters/{failed}"))
    await clusters.until(failed, "CREATE_FAILED")
    marks.answer("owner of a failed cluster", await clusters.ask("GET", f"clusters/{failed}"))
    await clusters.ok("DELETE", f"clusters/{failed}")
    await clusters.gone(f"clusters/{failed}")


async def _keys(caisson: Caisson, marks: Marks, cluster: str) -> None:
    """What only Caisson and the nodes know of a cluster."""
    async with caisson.running.gateway.database.reading(EVERYTHING) as session:
        rows = (await session.exec(select(ClusterKey).where(ClusterKey.cluster_id == cluster))).all()
    assert {row.kind for row in rows} >= {"cluster", "etcd", "front_proxy", "accounts"}
    for row in rows:
        marks.add(f"{row.kind} key of a cluster", core(caisson.running.gateway.vault.open(row.private_key)))


async def stored(running: Running) -> dict[str, str]:
    """All that the database holds, by column; with SQLite also its files, with what was deleted."""
    found: dict[str, str] = {}
    async with running.gateway.database.reading(EVERYTHING) as session:
        for mapper in SQLModel._sa_registry.mappers:
            for row in (await session.exec(select(mapper.class_))).all():
                for column in mapper.columns:
                    name = f"{mapper.class_.__tablename__}.{column.name}"
                    found[name] = f"{found.get(name, '')}\n{json.dumps(getattr(row, column.key), default=str)}"
    for file in running.settings.data_dir.glob("caisson.db*"):
        found[file.name] = file.read_bytes().decode("latin-1")
    return found


async def test_no_secret_is_written_or_told(
    private: Running, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # as served
    caisson, marks = Caisson(private), Marks()
    await drive(caisson, marks)
    assert len(marks.made) > 20
    log = "".join(capsys.readouterr()) + caplog.text
    assert "verb='create'" in log, "the log was captured"
    kept = await stored(private)
    assert "injected_file.content" in kept
    found = marks.found_in("the log", log)
    for where, text in (*kept.items(), *marks.told):
        found += marks.found_in(where, text)
    assert found == []
    sealed = {f"{model.__tablename__}.{name}" for model, name in SEALED}
    assert {name for name, text in kept.items() if '"gAAAA' in text} <= sealed, "sealed, and unknown to app.sealed"


async def test_the_search_finds_what_is_there(private: Running) -> None:
    """The check above would see a secret that is stored in plain text, in base64, or said in an answer."""
    marks = Marks()
    secret = marks.new("password")
    forms = [secret, *(base64.b64encode(f"{before}{secret}=".encode()).decode() for before in ("", "a", "ab"))]
    for form in forms:
        async with private.gateway.database.transaction(EVERYTHING) as session:
            session.add(Registry(project_id="p", user_id="u", created_at=1.0, name="r", domain=form))
    rows = (await stored(private))["registry.domain"].strip().split("\n")
    assert [marks.found_in("a row", row) for row in rows] == [["password in a row"]] * len(forms)


def test_settings_do_not_show_their_secrets() -> None:
    marks = Marks()
    settings = Settings(
        secret_key=SecretStr(marks.new("key")),
        other_secret_keys=[SecretStr(marks.new("older key"))],
        identity=IdentitySettings(admin_password=SecretStr(marks.new("password"))),
        keystone=KeystoneSettings(url="http://k/v3", username="u", password=SecretStr(marks.new("service password"))),
    )
    assert marks.found_in("settings", f"{settings!r} {settings} {settings.model_dump_json()}") == []
