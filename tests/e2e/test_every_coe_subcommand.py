"""Every subcommand of ``openstack coe``, each driven once against swarms on a real Docker, and openstacksdk's proxy.

The list is the client's own, read from its entry points, so that none can be forgotten; ``docs/compatibility.md`` has
it with what there is to say of each.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import openstack
import pytest

from tests.e2e.served import Gateway, serve
from tests.e2e.shell import Said, Shell
from tests.stack.debian import program
from tests.stack.keystone import Keystone
from tests.stack.session import Stack, wait_until

COMMANDS = sorted(point.name.replace("_", " ") for point in entry_points(group="openstack.container_infra.v1"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
NOTES = {
    "coe ca rotate": "clients need new certificates afterwards",
    "coe credential rotate": "refused: clusters have no credential of the cloud",
    "coe cluster config": "of a swarm it prints variables, certificates with `--output-certs`; `SHELL` must be set",
}
"""What there is to say of a subcommand."""
MAGNUM = "/container-infra/v1"
LATEST = {"OpenStack-API-Version": "container-infra latest"}


@dataclass
class Site:
    """A gateway that makes swarms, two users' shells, and one swarm that most subcommands are tried on."""

    gateway: Gateway
    member: Shell
    admin: Shell
    folder: Path
    made: list[str] = field(default_factory=list)

    def said(self, *words: str, admin: bool = False) -> Said:
        return (self.admin if admin else self.member).run("coe", *words)

    def ask(self, *words: str, admin: bool = False) -> str:
        """What a subcommand prints; it has to succeed."""
        said = self.said(*words, admin=admin)
        assert said.code == 0, f"{words}: {said}"
        return said.out

    def data(self, *words: str, admin: bool = False) -> Any:
        """As `ask`, as data."""
        printed = self.ask(*words, "-f", "json", admin=admin)
        return json.loads(re.sub(r"^Request to .*\n", "", printed))

    @cached_property
    def token(self) -> str:
        return self.gateway.keystone.token("alpha-member")

    @cached_property
    def project(self) -> str:
        return str(self.gateway.keystone.describe(self.token)["project"]["id"])

    @cached_property
    def template(self) -> str:
        """The name of a template of swarms."""
        return self.new_template()

    def new_template(self, image: str = "swarm-node") -> str:
        name = f"tpl-{uuid4().hex[:8]}"
        wish = ("--coe", "swarm-mode", "--image", image, "--external-network", "public", "--flavor", "small")
        self.ask("cluster", "template", "create", name, *wish, "--master-flavor", "small")
        return name

    def new_cluster(self, *options: str) -> str:
        """Ask for a swarm without workers. Returns its name."""
        name = f"swarm-{uuid4().hex[:8]}"
        self.made.append(name)
        said = self.ask("cluster", "create", name, "--cluster-template", self.template, "--node-count", "0", *options)
        assert re.search(r"Request to create cluster [0-9a-f-]{36} accepted", said)
        return name

    @cached_property
    def cluster(self) -> str:
        """The name of a swarm that is there."""
        name = self.new_cluster()
        self.become(name, "CREATE_COMPLETE")
        return name

    def show(self, name: str) -> Any:
        answer = self.gateway.call("GET", f"{MAGNUM}/clusters/{name}", self.token, headers=LATEST)
        return answer.json() if answer.status_code == 200 else {"status": "GONE"}

    def become(self, name: str, status: str) -> None:
        shown: dict[str, Any] = {}

        def reached() -> bool:
            nonlocal shown
            shown = self.show(name)
            assert shown["status"] == status or not shown["status"].endswith("_FAILED"), shown
            return bool(shown["status"] == status)

        wait_until(reached, f"cluster {name} to be {status}", 240)


@pytest.fixture(scope="module")
def site(
    stack: Stack, keystone: Keystone, docker_url: str, swarm_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One site for all subcommands. Its swarms are removed."""
    folder = tmp_path_factory.mktemp("site")
    images = {name: {"os_distro": "debian", "image": swarm_image} for name in ("swarm-node", "other-node")}
    settings = {
        "CAISSON_CLUSTERS__IMAGES": json.dumps(images),
        "CAISSON_CLUSTERS__FLAVORS": json.dumps({"small": {"cpus": 1, "memory": 512}}),
        "CAISSON_CLUSTERS__HEALTH_SECONDS": "2",
    }
    with serve(stack, folder, keystone, docker_url, None, **settings) as gateway:
        users = ("alpha-member", "alpha-admin")
        bash = {"SHELL": "/bin/bash"}  # or the client does not know whose variables it prints
        shells = [Shell(keystone.environment(user, region=gateway.region) | bash, folder) for user in users]
        found = Site(gateway, shells[0], shells[1], folder)
        try:
            yield found
        finally:
            for name in found.made:
                found.said("cluster", "delete", name)
            for name in found.made:
                wait_until(lambda name=name: found.show(name)["status"] == "GONE", f"{name} to go", 120)  # type: ignore[misc]
            for shell in shells:
                shell.close()


@pytest.fixture(autouse=True)
def _no_containers_left() -> None:
    """In the place of the folder's: these tests make no containers."""


DRIVES: dict[str, Callable[[Site], None]] = {}


def drives(command: str) -> Callable[[Callable[[Site], None]], Callable[[Site], None]]:
    """Registers what drives a subcommand."""

    def register(drive: Callable[[Site], None]) -> Callable[[Site], None]:
        assert command in COMMANDS
        DRIVES[command] = drive
        return drive

    return register


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.timeout(400)
def test_subcommand(command: str, site: Site) -> None:
    assert command in DRIVES, "a subcommand that nothing drives"
    DRIVES[command](site)


def test_the_document_lists_them() -> None:
    table = "\n".join(f"| {command} | {NOTES.get(command, '')} |".replace("|  |", "| |") for command in COMMANDS)
    assert table in DOCUMENT.read_text(), f"docs/compatibility.md should hold:\n{table}"


# Templates


@drives("coe cluster template create")
def _(site: Site) -> None:
    name = site.new_template()
    assert site.data("cluster", "template", "show", name)["coe"] == "swarm-mode"


@drives("coe cluster template show")
def _(site: Site) -> None:
    assert site.data("cluster", "template", "show", site.template)["cluster_distro"] == "debian"


@drives("coe cluster template list")
def _(site: Site) -> None:
    assert site.template in [row["name"] for row in site.data("cluster", "template", "list")]


@drives("coe cluster template update")
def _(site: Site) -> None:
    name = site.new_template()
    assert site.data("cluster", "template", "update", name, "--tag", "lab")["tags"] == "lab"


@drives("coe cluster template delete")
def _(site: Site) -> None:
    name = site.new_template()
    site.ask("cluster", "template", "delete", name)
    assert name not in [row["name"] for row in site.data("cluster", "template", "list")]
    assert site.cluster
    assert "referenced by one or multiple clusters" in str(site.said("cluster", "template", "delete", site.template))


# Clusters


@drives("coe cluster create")
def _(site: Site) -> None:
    name = site.new_cluster("--labels", "tier=lab", "--merge-labels", "--timeout", "10")
    shown = site.data("cluster", "show", name)
    assert (shown["labels"], shown["create_timeout"], shown["node_count"]) == ({"tier": "lab"}, 10, 0)


@drives("coe cluster list")
def _(site: Site) -> None:
    rows = {row["name"]: row for row in site.data("cluster", "list", "--sort-key", "name")}
    assert rows[site.cluster]["master_count"] == 1


@drives("coe cluster show")
def _(site: Site) -> None:
    shown = site.data("cluster", "show", site.cluster)
    assert shown["api_address"] == f"tcp://{shown['master_addresses'][0]}:2376"
    assert shown["coe_version"]
    assert shown["cluster_id"].startswith("swarm-")


@drives("coe cluster update")
def _(site: Site) -> None:
    said = site.ask("cluster", "update", site.cluster, "--label", "zone=one", "--rollback")
    assert "accepted" in said
    site.become(site.cluster, "UPDATE_COMPLETE")
    assert site.show(site.cluster)["labels"] == {"zone": "one"}
    assert "master_count" in str(site.said("cluster", "update", site.cluster, "--master-count", "3"))


@drives("coe cluster resize")
def _(site: Site) -> None:
    for count in (1, 0):
        site.ask("cluster", "resize", site.cluster, str(count))
        site.become(site.cluster, "UPDATE_COMPLETE")
        assert len(site.show(site.cluster)["node_addresses"]) == count


@drives("coe cluster upgrade")
def _(site: Site) -> None:
    newer = site.new_template("other-node")
    site.ask("cluster", "upgrade", site.cluster, newer)
    site.become(site.cluster, "UPDATE_COMPLETE")
    assert site.show(site.cluster)["cluster_template_id"] == site.data("cluster", "template", "show", newer)["uuid"]


@drives("coe cluster delete")
def _(site: Site) -> None:
    name = site.new_cluster()
    assert "Request to delete cluster" in site.ask("cluster", "delete", name)
    wait_until(lambda: site.show(name)["status"] == "GONE", f"{name} to go", 120)


@drives("coe cluster config")
def _(site: Site) -> None:
    folder = site.folder / uuid4().hex
    folder.mkdir()
    printed = site.ask("cluster", "config", site.cluster, "--dir", str(folder), "--output-certs")
    address = site.show(site.cluster)["api_address"]
    assert f"export DOCKER_HOST={address}" in printed
    assert {file.name for file in folder.iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
    assert docker(site, folder, "info", "--format", "{{.Swarm.ControlAvailable}}") == "true"


def docker(site: Site, folder: Path, *words: str) -> str:
    """What the docker command says, with what ``coe cluster config`` has written."""
    address = site.show(site.cluster)["api_address"]
    environment = {"DOCKER_HOST": address, "DOCKER_CERT_PATH": str(folder), "DOCKER_TLS_VERIFY": "True", "HOME": "/tmp"}
    done = subprocess.run(
        [program("docker"), *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Node groups


def group(site: Site, *options: str) -> str:
    name = f"more-{uuid4().hex[:6]}"
    site.ask("nodegroup", "create", site.cluster, name, "--node-count", "0", *options)
    site.become(site.cluster, "UPDATE_COMPLETE")
    return name


@drives("coe nodegroup create")
def _(site: Site) -> None:
    name = group(site, "--max-nodes", "3", "--node-labels", "tier=web")
    shown = site.data("nodegroup", "show", site.cluster, name)
    assert (shown["status"], shown["max_node_count"], shown["node_labels"]) == ("CREATE_COMPLETE", 3, {"tier": "web"})


@drives("coe nodegroup list")
def _(site: Site) -> None:
    rows = site.data("nodegroup", "list", site.cluster, "--role", "master")
    assert [row["name"] for row in rows] == ["default-master"]


@drives("coe nodegroup show")
def _(site: Site) -> None:
    assert site.data("nodegroup", "show", site.cluster, "default-worker")["role"] == "worker"


@drives("coe nodegroup update")
def _(site: Site) -> None:
    options = ("--max-nodes", "5", "--node-labels", "tier=lab")
    site.ask("nodegroup", "update", site.cluster, "default-worker", *options)
    site.become(site.cluster, "UPDATE_COMPLETE")
    shown = site.data("nodegroup", "show", site.cluster, "default-worker")
    assert (shown["max_node_count"], shown["node_labels"]) == (5, {"tier": "lab"})


@drives("coe nodegroup delete")
def _(site: Site) -> None:
    name = group(site)
    site.ask("nodegroup", "delete", site.cluster, name)
    site.become(site.cluster, "UPDATE_COMPLETE")
    assert name not in [row["name"] for row in site.data("nodegroup", "list", site.cluster)]
    assert "default nodegroup" in str(site.said("nodegroup", "delete", site.cluster, "default-worker"))


# Certificates


@drives("coe ca show")
def _(site: Site) -> None:
    assert site.ask("ca", "show", site.cluster).startswith("-----BEGIN CERTIFICATE-----")


@drives("coe ca sign")
def _(site: Site) -> None:
    request, key = site.folder / "csr.pem", site.folder / "csr-key.pem"
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=me"],
        check=True,
        capture_output=True,
    )
    assert site.ask("ca", "sign", site.cluster, str(request)).startswith("-----BEGIN CERTIFICATE-----")


@drives("coe ca rotate")
def _(site: Site) -> None:
    before = site.ask("ca", "show", site.cluster)
    assert "accepted" in site.ask("ca", "rotate", site.cluster)
    site.become(site.cluster, "UPDATE_COMPLETE")
    assert site.ask("ca", "show", site.cluster) != before
    folder = site.folder / uuid4().hex
    folder.mkdir()
    site.ask("cluster", "config", site.cluster, "--dir", str(folder), "--output-certs")
    assert docker(site, folder, "info", "--format", "{{.Swarm.ControlAvailable}}") == "true"


@drives("coe credential rotate")
def _(site: Site) -> None:
    assert "no credential of the cloud" in str(site.said("credential", "rotate", site.cluster))


# Reports and limits


@drives("coe stats list")
def _(site: Site) -> None:
    assert site.cluster
    assert int(shown(site.ask("stats", "list", site.project))["clusters"]) >= 1


def shown(table: str) -> dict[str, str]:
    """What a table of two columns says; these subcommands know no other form."""
    rows = (line.split("|") for line in table.splitlines() if line.count("|") == 3)
    return {row[1].strip(): row[2].strip() for row in rows}


@drives("coe service list")
def _(site: Site) -> None:
    (service,) = site.data("service", "list", admin=True)
    assert (service["binary"], service["state"]) == ("magnum-conductor", "up")


def quota(site: Site) -> tuple[str, ...]:
    """A quota of a project of its own. Returns the options that name it."""
    project = str(site.gateway.keystone.describe(site.gateway.keystone.token("beta-member"))["project"]["id"])
    named = ("--project-id", project, "--resource", "Cluster")
    site.said("quotas", "delete", *named, admin=True)
    site.ask("quotas", "create", *named, "--hard-limit", "7", admin=True)
    return named


@drives("coe quotas create")
def _(site: Site) -> None:
    named = quota(site)
    assert "already exists" in str(site.said("quotas", "create", *named, "--hard-limit", "7", admin=True))


@drives("coe quotas show")
def _(site: Site) -> None:
    assert shown(site.ask("quotas", "show", *quota(site), admin=True))["hard_limit"] == "7"


@drives("coe quotas list")
def _(site: Site) -> None:
    named = quota(site)
    assert named[1] in site.ask("quotas", "list", "--all-tenants", admin=True)


@drives("coe quotas update")
def _(site: Site) -> None:
    named = quota(site)
    site.ask("quotas", "update", *named, "--hard-limit", "9", admin=True)
    assert shown(site.ask("quotas", "show", *named, admin=True))["hard_limit"] == "9"


@drives("coe quotas delete")
def _(site: Site) -> None:
    named = quota(site)
    site.ask("quotas", "delete", *named, admin=True)
    assert shown(site.ask("quotas", "show", *named, admin=True))["hard_limit"] == "20"


# openstacksdk


@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")  # it speaks to itself
@pytest.mark.timeout(400)
def test_openstacksdk(site: Site) -> None:
    login = site.gateway.keystone.environment("alpha-member")
    cloud = openstack.connect(
        auth_url=login["OS_AUTH_URL"],
        username=login["OS_USERNAME"],
        password=login["OS_PASSWORD"],
        project_name=login["OS_PROJECT_NAME"],
        user_domain_id="default",
        project_domain_id="default",
        region_name=site.gateway.region,
    )
    proxy = cloud.container_infrastructure_management
    name = f"sdk-{uuid4().hex[:8]}"
    site.made.append(name)
    made = proxy.create_cluster(name=name, cluster_template_id=site.template, labels={"a": "b"})
    found = proxy.get_cluster(made.id)
    assert (found.name, found.labels, found.node_count, found.master_count) == (name, {"a": "b"}, 1, 1)
    assert proxy.find_cluster(name, ignore_missing=False).uuid == made.id
    assert made.id in [row.id for row in proxy.clusters()]
    site.become(name, "CREATE_COMPLETE")
    assert proxy.get_cluster(made.id).stack_id.startswith("sdk-")
    assert proxy.get_cluster_certificate(made.id).pem.startswith("-----BEGIN CERTIFICATE-----")
    proxy.update_cluster(proxy.get_cluster(made.id), node_count=2)
    site.become(name, "UPDATE_COMPLETE")
    assert len(proxy.get_cluster(made.id).node_addresses) == 2
    proxy.delete_cluster(made.id)
    wait_until(lambda: site.show(name)["status"] == "GONE", f"{name} to go", 120)
    cloud.close()
