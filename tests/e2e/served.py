"""A gateway as its own process with a real Keystone and a real engine, and the clients that talk to it."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3
from zunclient import api_versions
from zunclient.v1 import client as zun

from tests.stack import docker
from tests.stack.keystone import SERVICE_PASSWORD, Keystone, password_of
from tests.stack.session import Service, Stack, free_port, wait_until

PROGRAM = Path(sys.executable).with_name("openstack")


class CommandError(Exception):
    """A command ended with another exit code than 0; the text is what it wrote."""


@dataclass(frozen=True)
class Gateway:
    """A running gateway.

    Attributes:
        service: its process.
        keystone: who it asks about tokens.
        region: where Keystone's catalogue lists it.
        engine_url: the engine it uses.
    """

    service: Service
    keystone: Keystone
    region: str
    engine_url: str

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        return self.service.facts["url"]

    @property
    def folder(self) -> Path:
        """All that it writes."""
        return Path(self.service.facts["folder"])

    def openstack(self, verb: str, *words: str, user: str = "alpha-member", version: str | None = None) -> str:
        """What ``openstack appcontainer VERB WORDS…`` prints.

        Raises:
            CommandError: its exit code was not 0.
        """
        return self.command("appcontainer", *verb.split(), *words, user=user, version=version)

    def command(self, *words: str, user: str = "alpha-member", version: str | None = None) -> str:
        """As `openstack`, for any of its commands."""
        options = [] if version is None else ["--os-container-api-version", version]
        return run([str(PROGRAM), *options, *words], self.keystone.environment(user, region=self.region))

    def openstack_json(self, verb: str, *words: str, user: str = "alpha-member", version: str | None = None) -> Any:
        """As `openstack`, with the answer as data."""
        return json.loads(self.openstack(f"{verb} -f json", *words, user=user, version=version))

    def zun(self, user: str = "alpha-member", version: str = "1.40", project: str | None = None) -> Any:
        """python-zunclient's own client, logged in by Keystone."""
        login = self.keystone.environment(user, project)
        auth = v3.Password(
            auth_url=login["OS_AUTH_URL"],
            username=user,
            password=password_of(user),
            user_domain_id="default",
            project_name=login["OS_PROJECT_NAME"],
            project_domain_id="default",
        )
        return zun.Client(
            session=keystone_session.Session(auth=auth),
            region_name=self.region,
            api_version=api_versions.APIVersion(version),
        )

    def call(self, method: str, path: str, token: str, **options: Any) -> httpx.Response:
        """A bare HTTP call at the newest version."""
        headers = {"X-Auth-Token": token, "OpenStack-API-Version": "container latest", **options.pop("headers", {})}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=60, **options)

    def become(
        self, ident: str, status: str, *, user: str = "alpha-member", also: Callable[[Any], bool] = lambda box: True
    ) -> Any:
        """Waits until a container has this status (``Gone``: is no more) and returns it."""
        token = self.keystone.token(user)
        found: Any = None

        def reached() -> bool:
            nonlocal found
            answer = self.call("GET", f"/v1/containers/{ident}", token)
            if answer.status_code == 404:
                return status == "Gone"
            found = answer.raise_for_status().json()
            return bool(found["status"] == status and found["task_state"] is None and also(found))

        try:
            wait_until(reached, f"container {ident} to be {status}", 60)
        except Exception as error:
            error.add_note(f"it is {found}")
            raise
        return found

    def until(self, reached: Callable[[], bool]) -> None:
        """Waits until that is so."""
        wait_until(reached, "what the gateway was asked for", 60)

    def clear(self) -> None:
        """Deletes every capsule and container of every project that this gateway knows, and waits for that."""
        token = self.keystone.token("alpha-admin")
        everywhere = {"all_projects": "true"}

        def empty() -> bool:
            boxes = self.call("GET", "/v1/containers", token, params=everywhere).raise_for_status().json()
            for box in boxes["containers"]:
                if box["status"] == "Paused":
                    # Not even force deletes these.
                    self.call("POST", f"/v1/containers/{box['uuid']}/unpause", token)
                else:
                    self.call("DELETE", f"/v1/containers/{box['uuid']}", token, params={"force": "true"})
            pods = self.call("GET", "/v1/capsules", token, params=everywhere).raise_for_status().json()["capsules"]
            for pod in pods:
                if pod["status"] != "Deleting":
                    self.call("DELETE", f"/v1/capsules/{pod['uuid']}", token)
            return not boxes["containers"] and not pods

        deadline = time.monotonic() + 60
        while not empty():
            assert time.monotonic() < deadline, "containers stay"
            time.sleep(0.1)


@contextmanager
def serve(
    stack: Stack,
    folder: Path,
    keystone: Keystone,
    engine_url: str,
    services: Mapping[str, str] | None = None,
    **environment: str,
) -> Iterator[Gateway]:
    """A gateway for the length of the block.

    Args:
        services: addresses of further services, by type, that the catalogue lists beside it.
        environment: further settings.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    beside = {"container-infra": f"{url}/container-infra/v1"} | dict(services or {})
    region = keystone.region(f"{url}/container/v1", **beside)
    service = stack.spawn(
        f"gateway-{secrets.token_hex(4)}",
        [sys.executable, "-m", "app", "serve", "--port", str(port), "--data-dir", str(folder)],
        log=folder / "gateway.log",
        ready=lambda: answers(url),
        environment={
            "DOCKER_HOST": engine_url,
            "CAISSON_KEYSTONE__URL": keystone.url,
            "CAISSON_KEYSTONE__USERNAME": "caisson",
            "CAISSON_KEYSTONE__PASSWORD": SERVICE_PASSWORD,
            "CAISSON_KEYSTONE__PROJECT_NAME": "service",
            "CAISSON_KEYSTONE__REGION": region,
            # Every check asks Keystone anew, so that a test sees at once what changed there.
            "CAISSON_KEYSTONE__CACHE_SECONDS": "0",
            "CAISSON_PULL_POLICY": "ifnotpresent",
            **environment,
        },
        facts={"url": url, "folder": str(folder)},
    )
    try:
        yield Gateway(service, keystone, region, engine_url)
    finally:
        stack.stop(service)


def answers(url: str) -> bool:
    """Whether a gateway serves at this address."""
    try:
        return httpx.get(f"{url}/healthcheck").status_code == 200
    except httpx.TransportError:
        return False


def run(command: list[str], environment: dict[str, str], cwd: Path | None = None, seconds: float = 120) -> str:
    """What a command writes on standard output.

    Raises:
        CommandError: its exit code was not 0.
    """
    done = subprocess.run(
        command, env=os.environ | environment, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def remove_image(engine_url: str, name: str) -> None:
    """Removes an image from the engine; absent is fine."""
    with suppress(httpx.HTTPError), docker.client(engine_url) as http:
        http.delete(f"/images/{name}", params={"force": "true"})
