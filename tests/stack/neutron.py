"""A real Neutron API from PyPI, on SQLite, in one process, without agents: ports get real addresses, nobody wires them.

Its virtual environment (from ``neutron.lock``) and an empty database are kept in the cache. It asks the Keystone it is
started for, as that one's user ``neutron``; the caller puts it into the catalogue (:meth:`Keystone.region`).
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.stack import venvs
from tests.stack.keystone import SERVICE_PASSWORD, Keystone
from tests.stack.session import Service, Stack, StackError, free_port

LOCK = Path(__file__).with_name("neutron.lock")

CONFIGURATION = """
[DEFAULT]
use_stderr = true
core_plugin = ml2
service_plugins = router
auth_strategy = keystone
transport_url = fake://
state_path = {folder}/state
api_paste_config = {paste}
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
dhcp_agent_notification = false
[database]
connection = sqlite:///{folder}/neutron.db
[keystone_authtoken]
auth_type = password
auth_url = {keystone}
www_authenticate_uri = {keystone}
username = neutron
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
[oslo_concurrency]
lock_path = {folder}/state
[oslo_policy]
enforce_scope = true
[ml2]
type_drivers = local,flat,vxlan
tenant_network_types = vxlan
mechanism_drivers = openvswitch
extension_drivers = port_security
[ml2_type_vxlan]
vni_ranges = 1:2000
[ml2_type_flat]
flat_networks = *
[quotas]
quota_network = -1
quota_subnet = -1
quota_port = -1
quota_router = -1
quota_floatingip = -1
quota_security_group = -1
quota_security_group_rule = -1
"""

# Neutron reads sys.argv as its own options, so the web server must get all of its own from a file. One thread, or two
# writers would meet in SQLite.
WEB_SERVER = """
wsgi_app = "neutron.wsgi.api:application"
bind = "127.0.0.1:{port}"
workers = 1
threads = 1
timeout = 120
worker_tmp_dir = "/dev/shm"
graceful_timeout = 1
control_socket_disable = True
"""

# Neutron's migrations do not run on SQLite: its tables are made from its models instead, and the rules that every
# security group begins with come from the one migration that writes them.
MAKE_TABLES = """
import importlib.util, pathlib, sys
import sqlalchemy
import neutron.db.migration as migration
from neutron.db.migration.models import head

engine = sqlalchemy.create_engine(sys.argv[1])
head.get_metadata().create_all(engine)
path = next(pathlib.Path(migration.__file__).parent.rglob("*_security_group_default_rules.py"))
spec = importlib.util.spec_from_file_location("default_rules", path)
rules = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rules)
table = head.get_metadata().tables[rules.table_name]
with engine.begin() as connection:
    for rule in rules.default_template_rules:
        about = {"description": rule.pop("description"), "resource_type": rules.table_name, "revision_number": 0}
        standard = head.get_metadata().tables["standardattributes"]
        made = connection.execute(sqlalchemy.insert(standard).values(about))
        connection.execute(sqlalchemy.insert(table).values(standard_attr_id=made.inserted_primary_key[0], **rule))
"""


@dataclass(frozen=True)
class Neutron:
    """A running Neutron.

    Attributes:
        service: its process, for tests that stop or freeze it.
    """

    service: Service

    @property
    def url(self) -> str:
        """Its address for the catalogue, ``http://127.0.0.1:port``."""
        return self.service.facts["url"]

    def create(self, token: str, kind: str, **attributes: Any) -> dict[str, Any]:
        """Makes a thing of one kind (``network``, ``subnet``, ``port``, ``security-group``, …) and returns it.

        Raises:
            httpx.HTTPStatusError: Neutron refused.
        """
        key = kind.replace("-", "_")
        made: dict[str, Any] = self.call("POST", f"/{kind}s", token, json={key: attributes}).json()[key]
        return made

    def network(self, token: str, name: str, cidr: str, **subnet: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Makes a network with one subnet and returns both."""
        net = self.create(token, "network", name=name)
        version = 6 if ":" in cidr else 4
        return net, self.create(token, "subnet", network_id=net["id"], cidr=cidr, ip_version=version, **subnet)

    def find(self, token: str, kind: str, **filters: Any) -> list[dict[str, Any]]:
        """The things of one kind that a token sees, narrowed by Neutron's own filters."""
        answer = self.call("GET", f"/{kind}s", token, params=filters).json()
        found: list[dict[str, Any]] = answer[f"{kind.replace('-', '_')}s"]
        return found

    def call(self, method: str, path: str, token: str, **options: Any) -> httpx.Response:
        """Any call below ``/v2.0``.

        Raises:
            httpx.HTTPStatusError: Neutron refused.
        """
        url = f"{self.url}/v2.0{path}"
        answer = httpx.request(method, url, headers={"X-Auth-Token": token}, timeout=60, **options)
        return answer.raise_for_status()


def shared(stack: Stack, keystone: Keystone) -> Neutron:
    """The Neutron of this session, started first if nobody has done that."""
    return Neutron(stack.shared("neutron", lambda: start(stack, keystone)))


def start(stack: Stack, keystone: Keystone, name: str = "neutron") -> Service:
    """Starts an empty Neutron under this name in the stack.

    Raises:
        StackError: it could not be installed, prepared or started.
    """
    programs = venvs.programs("neutron", LOCK)
    folder = stack.folder(name)
    shutil.copytree(_prepared_data(programs), folder, dirs_exist_ok=True)
    (folder / "state").mkdir()
    paste = programs.parent / "etc" / "neutron" / "api-paste.ini"
    configuration = CONFIGURATION.format(folder=folder, paste=paste, keystone=keystone.url, password=SERVICE_PASSWORD)
    (folder / "neutron.conf").write_text(configuration)
    port = free_port()
    (folder / "gunicorn.conf.py").write_text(WEB_SERVER.format(port=port))
    url = f"http://127.0.0.1:{port}"
    return stack.spawn(
        name,
        [str(programs / "gunicorn")],
        log=folder / "log",
        ready=lambda: _answers(url),
        environment={
            "OS_NEUTRON_CONFIG_DIR": str(folder),
            "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
            "GUNICORN_CMD_ARGS": f"--config {folder}/gunicorn.conf.py",
        },
        facts={"url": url},
    )


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def _prepared_data(programs: Path) -> Path:
    """The cached data directory with an empty database. It follows the lock and this file."""
    recipe = LOCK.read_text() + Path(__file__).read_text()
    return venvs.prepared("neutron", recipe, lambda folder: _prepare(programs, folder))


def _prepare(programs: Path, folder: Path) -> None:
    command = [str(programs / "python"), "-c", MAKE_TABLES, f"sqlite:///{folder}/neutron.db"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"Neutron's database could not be made: {done.stderr[-2000:]}")


def main() -> None:
    """Fills the cache, so that no test has to wait for it within its own time limit."""
    _prepared_data(venvs.programs("neutron", LOCK))


if __name__ == "__main__":
    main()
