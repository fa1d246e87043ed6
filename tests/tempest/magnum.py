"""magnum-tempest-plugin: a Caisson with a real Keystone and clusters of real nodes, and one run of the whole plugin.

The plugin is used as published but for the lines in :func:`_changes`. Half of its tests do what the other half does, in
the three roles of a project. In each half one test spends ten minutes asleep beside a cluster, so parts of the plugin
run side by side.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.served import Gateway, serve
from tests.stack import docker, keystone, kubernetes
from tests.stack.session import Stack, wait_until
from tests.tempest import suite
from tests.tempest.suite import Changes, NothingRan, Result, Suite

PACKAGE = "magnum_tempest_plugin"
TESTS = f"{PACKAGE}.tests.api.v1."
CLUSTER = "cluster[.]ClusterTest[.]test_create_list"
PARTS = {"roles": "rbac[.]", "cluster": f"test_{CLUSTER}", "members": f"test_(?!{CLUSTER})"}
"""How the names of each part's tests begin. Outside the roles, a class loses its user after its first test, and the one
with the cluster asks for a token later than that: so that one is by itself."""

# The plugin's readers ask for certificates of a cluster that a member made, which only its creator may have by default.
POLICY = """\
"certificate:of_others": "role:reader"
"""
IMAGE, FLAVOR, KEYPAIR = "kubernetes-node", "node", "magnum-test"

CONFIGURATION = """\
magnum = true
[enforce_scope]
magnum = true
[magnum]
keypair_name = {keypair}
image_id = {image}
flavor_id = {flavor}
master_flavor_id = {flavor}
nic_id = public
coe = kubernetes
cluster_creation_timeout = 5
cluster_delete_timeout = 5
"""


def run(stack: Stack, lane: str, wanted: str) -> list[Result]:
    """Runs the plugin against a Caisson made for it, on the session's engine and with its Keystone.

    Raises:
        StackError: something around it could not be started.
        NothingRan: no test matched, or none could be loaded.
    """
    engine_url = docker.engine(stack)
    with stack.lock("kubernetes-image"):
        image = kubernetes.image(engine_url)
    folder = stack.folder(f"tempest-magnum-{lane}")
    (folder / "gateway").mkdir()
    (folder / "policy.yaml").write_text(POLICY)
    settings = {
        "CAISSON_CLUSTERS__IMAGES": json.dumps({IMAGE: {"os_distro": "debian", "image": image}}),
        "CAISSON_CLUSTERS__FLAVORS": json.dumps({FLAVOR: {"cpus": 2, "memory": 2048}}),
        "CAISSON_CLUSTERS__KEYPAIRS": json.dumps([KEYPAIR]),
        "CAISSON_POLICY_FILE": str(folder / "policy.yaml"),
        "CAISSON_KEYSTONE__CACHE_SECONDS": "60",
    }
    with serve(stack, folder / "gateway", keystone.shared(stack), engine_url, {}, **settings) as gateway:
        try:
            with ThreadPoolExecutor() as side_by_side:
                parts = [side_by_side.submit(_part, name, folder, gateway, wanted) for name in PARTS]
            found = [result for part in parts for result in part.result()]
        finally:
            _clear(gateway)
    if not found:
        raise NothingRan(f"no test matches {wanted}")
    return found


SUITE = Suite("magnum", ("all",), run)


def _part(name: str, folder: Path, gateway: Gateway, wanted: str) -> list[Result]:
    own = folder / name
    own.mkdir()
    plugin = CONFIGURATION.format(image=IMAGE, flavor=FLAVOR, keypair=KEYPAIR)
    configuration = suite.configuration(own, gateway, plugin, images=False, networks=False)
    copy = suite.changed_copy(PACKAGE, own / "plugin", _changes(own))
    try:
        return suite.run(own, copy, configuration, f"^{TESTS}{PARTS[name]}.*({wanted})", TESTS, f"magnum-{name}")
    except NothingRan:
        if not wanted:
            raise
        return []


def _changes(folder: Path) -> Changes:
    """What differs from the published plugin, and why."""
    # What a test writes for kubectl would be overwritten by another part.
    place = ("/tmp/magnum-nodes", f"{folder}/nodes")
    return {
        # There is no Nova to make the key pair in: Caisson's settings list it.
        "tests/api/base.py": [("if config.Config.keypair_name:", "if config.CONF.service_available.nova:")],
        "common/templates/cluster.py": [place],
        # Where devstack has it.
        "tests/contrib/copy_pod_logs.sh": [place, ("/opt/stack/bin/kubectl", str(kubernetes.kubectl()))],
        # It would ask again only after ten seconds.
        "tests/api/v1/clients/cluster_client.py": [
            ("does_cluster_not_exist(cluster_id), 10,", "does_cluster_not_exist(cluster_id), 0.5,"),
            ("does_cluster_exist(cluster_id), 10,", "does_cluster_exist(cluster_id), 0.5,"),
        ],
    }


def _clear(gateway: Gateway) -> None:
    """Deletes what tests left, and waits for that."""
    token = gateway.keystone.token("alpha-admin")
    path = "/container-infra/v1/clusters"

    def empty() -> bool:
        left = gateway.call("GET", path, token).raise_for_status().json()["clusters"]
        for cluster in left:
            if cluster["status"] != "DELETE_IN_PROGRESS":
                gateway.call("DELETE", f"{path}/{cluster['uuid']}", token)
        return not left

    wait_until(empty, "clusters to go", 120)
