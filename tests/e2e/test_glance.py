"""A real Glance beside the gateway: whose images run where, what is downloaded when, and what becomes of a commit."""

import io
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.served import Gateway, serve
from tests.stack import docker
from tests.stack import glance as glance_service
from tests.stack.glance import Glance
from tests.stack.keystone import Keystone
from tests.stack.session import Stack, wait_until


@pytest.fixture(scope="module")
def gateway(
    stack: Stack,
    keystone: Keystone,
    glance: Glance,
    docker_url: str,
    busybox_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway whose catalogue lists the Glance."""
    folder = tmp_path_factory.mktemp("gateway")
    with serve(stack, folder, keystone, docker_url, {"image": glance.url}) as served:
        yield served
        served.clear()
        remove_cached(docker_url)


@pytest.fixture(scope="module")
def busybox_tar(docker_url: str, busybox_image: str) -> bytes:
    """What ``docker save`` writes."""
    with docker.client(docker_url) as http:
        return http.get(f"/images/{busybox_image}/get").content


def remove_cached(docker_url: str) -> None:
    """Takes the images that came from Glance from the engine again."""
    with docker.client(docker_url) as http:
        for image in http.get("/images/json").json():
            for name in image["RepoTags"] or ():
                if name.startswith("caisson.invalid/glance:"):
                    http.delete(f"/images/{name}")


def create(gateway: Gateway, token: str, **body: Any) -> httpx.Response:
    wish = {"image_driver": "glance", "command": ["sleep", "600"], **body}
    return gateway.call("POST", "/v1/containers?run=true", token, json=wish)


def test_an_image_runs_by_name_and_by_id_and_is_downloaded_once(
    gateway: Gateway, glance: Glance, busybox_tar: bytes
) -> None:
    token = gateway.keystone.token("alpha-member")
    image = glance.upload(token, "Tools of Alpha", busybox_tar)
    made = create(gateway, token, image="Tools of Alpha")
    assert made.status_code == 202, made.text
    assert (made.json()["image"], made.json()["image_driver"]) == ("Tools of Alpha", "glance")
    box = gateway.become(made.json()["uuid"], "Running")
    assert (box["image"], box["image_driver"]) == ("Tools of Alpha", "glance")
    assert gateway.zun().containers.execute(box["uuid"], command="echo hello")["output"] == "hello\n"
    glance.lose(image)
    again = create(gateway, token, image=image).json()
    assert gateway.become(again["uuid"], "Running")["image"] == image


def test_nobody_runs_an_image_that_he_does_not_see(
    gateway: Gateway, glance: Glance, docker_url: str, busybox_tar: bytes
) -> None:
    owner, other = gateway.keystone.token("alpha-member"), gateway.keystone.token("beta-member")
    image = glance.upload(owner, "private-of-alpha", busybox_tar)
    box = create(gateway, owner, image=image).json()
    gateway.become(box["uuid"], "Running")
    with docker.client(docker_url) as http:
        tags = [tag for one in http.get("/images/json").json() for tag in one["RepoTags"] or () if image in tag]
    assert len(tags) == 1
    for name in ("private-of-alpha", image):
        refused = create(gateway, other, image=name)
        assert refused.status_code == 404
        assert refused.json()["errors"][0]["code"] == "container.image-not-found"
    # It is in the engine now. Nothing that beta can ask for leads there.
    for driver in ("docker", "glance"):
        assert create(gateway, other, image=tags[0], image_driver=driver).status_code in (400, 404)
    glance.call("PATCH", f"/v2/images/{image}", gateway.keystone.token("admin", "admin"),
                headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
                content=b'[{"op": "replace", "path": "/visibility", "value": "public"}]')  # fmt: skip
    shared = create(gateway, other, image="private-of-alpha").json()
    gateway.become(shared["uuid"], "Running", user="beta-member")


def test_what_cannot_run_is_refused_in_words(gateway: Gateway, glance: Glance, busybox_tar: bytes) -> None:
    token = gateway.keystone.token("alpha-member")
    glance.upload(token, "twice", busybox_tar)
    glance.upload(token, "twice", busybox_tar)
    glance.upload(token, "a disk", b"boot sector", container_format="bare")
    empty = {"name": "empty", "container_format": "docker", "disk_format": "raw"}
    glance.call("POST", "/v2/images", token, json=empty)
    for name, status, words in (
        ("twice", 409, "use the image's id"),
        ("a disk", 400, "container format bare"),
        ("empty", 409, "queued, not active"),
        ("never heard of", 404, "never heard of could not be found"),
    ):
        refused = create(gateway, token, image=name)
        assert (refused.status_code, words in refused.text) == (status, True), refused.text
    with_registry = create(gateway, token, image="twice", registry="some-registry")
    assert (with_registry.status_code, "registry" in with_registry.text) == (400, True)
    glance.upload(token, "no image", b"these bytes are no image")
    box = create(gateway, token, image="no image").json()
    assert "docker save" in gateway.become(box["uuid"], "Error")["status_reason"]


def test_names_in_an_image_do_not_replace_those_of_the_host(
    gateway: Gateway, glance: Glance, docker_url: str, busybox_tar: bytes
) -> None:
    token = gateway.keystone.token("alpha-member")
    with tarfile.open(fileobj=io.BytesIO(busybox_tar)) as tar:
        assert b"caisson/busybox:1" in tar.extractfile("manifest.json").read()  # type: ignore[union-attr]
    hostile = busybox_tar.replace(b'"caisson/busybox:1"', b'"caisson/bu5yb0x:1"')
    glance.upload(token, "hostile", hostile)
    box = create(gateway, token, image="hostile").json()
    gateway.become(box["uuid"], "Running")
    with docker.client(docker_url) as http:
        assert http.get("/images/caisson/bu5yb0x:1/json").status_code == 404


def test_search(gateway: Gateway, glance: Glance, busybox_tar: bytes) -> None:
    token, other = gateway.keystone.token("alpha-member"), gateway.keystone.token("beta-member")
    image = glance.upload(token, "find-me-please", busybox_tar)

    def found(who: str, name: str, **query: str) -> list[str]:
        asked = gateway.call("GET", f"/v1/images/{name}/search", who, params={"image_driver": "glance", **query})
        return [one["id"] for one in asked.raise_for_status().json()]

    assert found(token, "find-me") == [image]
    assert found(token, "find-me", exact_match="true") == []
    assert found(token, "find-me-please", exact_match="true") == [image]
    assert found(other, "find-me") == []


def test_a_rebuild_takes_an_image_from_glance(gateway: Gateway, glance: Glance, busybox_tar: bytes) -> None:
    token = gateway.keystone.token("alpha-member")
    glance.upload(token, "newer", busybox_tar)
    box = create(gateway, token, image="caisson/busybox:1", image_driver="docker").json()
    gateway.become(box["uuid"], "Running")
    how = {"image": "newer", "image_driver": "glance"}
    assert gateway.call("POST", f"/v1/containers/{box['uuid']}/rebuild", token, params=how).status_code == 202
    rebuilt = gateway.become(box["uuid"], "Running", also=lambda box: box["image_driver"] == "glance")
    assert rebuilt["image"] == "newer"
    absent = {"image": "not there", "image_driver": "glance"}
    assert gateway.call("POST", f"/v1/containers/{box['uuid']}/rebuild", token, params=absent).status_code == 404


def test_a_commit_goes_to_glance_and_runs_from_there_in_flat_memory(gateway: Gateway, glance: Glance) -> None:
    token = gateway.keystone.token("alpha-member")
    write = "echo precious > /kept; dd if=/dev/urandom of=/big bs=1M count=120 2>/dev/null; echo done; sleep 600"
    box = create(gateway, token, image="caisson/busybox:1", image_driver="docker", command=["sh", "-c", write]).json()
    logs = f"/v1/containers/{box['uuid']}/logs"
    gateway.become(box["uuid"], "Running")
    wait_until(lambda: "done" in gateway.call("GET", logs, token).text, "the file to be written")
    before = peak_memory(gateway)
    path = f"/v1/containers/{box['uuid']}/commit"
    answer = gateway.call("POST", path, token, params={"repository": "kept-of-alpha", "tag": "v1"})
    assert answer.status_code == 202, answer.text
    image = answer.json()["uuid"]
    record = glance.call("GET", f"/v2/images/{image}", token).json()
    expected = {"name": "kept-of-alpha", "container_format": "docker", "disk_format": "raw", "tags": ["v1"]}
    assert {key: record[key] for key in expected} == expected
    assert record["owner"] == box["project_id"]

    def is_active() -> bool:
        return bool(glance.call("GET", f"/v2/images/{image}", token).json()["status"] == "active")

    wait_until(is_active, "the upload to end", 120)
    gateway.become(box["uuid"], "Running")
    with docker.client(gateway.engine_url) as http:
        assert http.get(f"/images/caisson.invalid/commit:{image}/json").status_code == 404
    copy = create(gateway, token, image="kept-of-alpha", command=["cat", "/kept"]).json()
    gateway.become(copy["uuid"], "Stopped")
    assert gateway.call("GET", f"/v1/containers/{copy['uuid']}/logs", token).json() == "precious\n"
    assert peak_memory(gateway) - before < 40 * 1024


def peak_memory(gateway: Gateway) -> int:
    """The most that the gateway's process has used, in KiB."""
    status = Path(f"/proc/{gateway.service.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def test_a_commit_whose_record_is_deleted_meanwhile_leaves_nothing(gateway: Gateway, glance: Glance) -> None:
    token = gateway.keystone.token("alpha-member")
    box = create(gateway, token, image="caisson/busybox:1", image_driver="docker").json()
    gateway.become(box["uuid"], "Running")
    commit = f"/v1/containers/{box['uuid']}"
    answer = gateway.call("POST", f"{commit}/commit", token, params={"repository": "unwanted"})
    glance.call("DELETE", f"/v2/images/{answer.json()['uuid']}", token)
    request = answer.headers["x-openstack-request-id"]

    def action() -> Any:
        return gateway.call("GET", f"{commit}/container_actions/{request}", token).json()

    wait_until(lambda: action()["finish_time"] is not None, "the commit to end")
    assert "image service" in action()["message"]
    with docker.client(gateway.engine_url) as http:
        assert http.get(f"/images/caisson.invalid/commit:{answer.json()['uuid']}/json").status_code == 404


def test_a_delete_that_cuts_a_commit_off_leaves_no_record_and_no_copy(
    stack: Stack, keystone: Keystone, docker_url: str, busybox_image: str, tmp_path: Path
) -> None:
    service = glance_service.start(stack, keystone, "glance-that-is-slow")
    glance, token, admin = Glance(service), keystone.token("alpha-member"), keystone.token("alpha-admin")
    try:
        with (
            serve(stack, tmp_path, keystone, docker_url, {"image": glance.url}) as gateway,
            docker.client(docker_url) as http,
        ):
            box = create(gateway, token, image=busybox_image, image_driver="docker").json()
            gateway.become(box["uuid"], "Running")
            path = f"/v1/containers/{box['uuid']}"
            kept = gateway.call("POST", f"{path}/commit", token, params={"repository": "kept"}).json()["uuid"]
            wait_until(
                lambda: glance.call("GET", f"/v2/images/{kept}", token).json()["status"] == "active",
                "the upload to end",
            )
            cut = gateway.call("POST", f"{path}/commit", token, params={"repository": "cut-off"}).json()["uuid"]
            os.killpg(service.pid, signal.SIGSTOP)
            copy = f"/images/caisson.invalid/commit:{cut}/json"
            wait_until(lambda: http.get(copy).status_code == 200, "the copy on the engine's host")
            assert gateway.call("DELETE", path, admin, params={"force": "true"}).status_code == 204
            os.killpg(service.pid, signal.SIGCONT)
            gateway.become(box["uuid"], "Gone")
            left = [image["id"] for image in glance.call("GET", "/v2/images", token).json()["images"]]
            assert left == [kept]
            assert http.get(copy).status_code == 404
    finally:
        stack.stop(service)


def test_a_commit_survives_the_gateway_and_the_image_service(
    stack: Stack, keystone: Keystone, docker_url: str, busybox_image: str, tmp_path: Path
) -> None:
    service = glance_service.start(stack, keystone, "glance-that-freezes")
    glance, token = Glance(service), keystone.token("alpha-member")
    try:
        with serve(stack, tmp_path, keystone, docker_url, {"image": glance.url}) as gateway:
            box = create(gateway, token, image=busybox_image, image_driver="docker").json()
            gateway.become(box["uuid"], "Running")
            path = f"/v1/containers/{box['uuid']}/commit"
            image = gateway.call("POST", path, token, params={"repository": "survivor"}).json()["uuid"]
            os.killpg(service.pid, signal.SIGSTOP)
            stack.stop(gateway.service, signal.SIGKILL)
        os.killpg(service.pid, signal.SIGCONT)
        with serve(stack, tmp_path, keystone, docker_url, {"image": glance.url}) as gateway:
            try:
                wait_until(
                    lambda: glance.call("GET", f"/v2/images/{image}", token).json()["status"] == "active",
                    "the upload to be made after all",
                    120,
                )
                copy = create(gateway, token, image="survivor").json()
                gateway.become(copy["uuid"], "Running")
            finally:
                gateway.clear()
    finally:
        stack.stop(service)
        remove_cached(docker_url)
