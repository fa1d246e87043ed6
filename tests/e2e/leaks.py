"""What a gateway and its clusters keep to themselves, looked for in all that a whole life wrote and shows."""

import json
import re
import sqlite3
import ssl
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from app.certificates import Authority, issue
from app.vault import Vault, kept_keys
from tests.e2e.served import Gateway
from tests.marks import Marks, core
from tests.stack.docker import client
from tests.stack.keystone import SERVICE_PASSWORD

KEY_FILE = "secret.key"
PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(?:[A-Za-z0-9+/=]+\n)+-----END")
IN_KUBECONFIG = re.compile(r"client-key-data: *\"?([A-Za-z0-9+/=]{80,})")
ON_NODES = ["sh", "-c", "cat $(grep -rlE 'PRIVATE KEY|client-key-data' /certs /etc/kubernetes 2>/dev/null)"]


def leaks(gateway: Gateway) -> list[str]:
    """Secrets of the gateway's clusters, and who may see each that should not.

    Looked through are all its files (database, log, audit events), what the engine tells of containers, volumes and
    networks, logs of containers, and the arguments and environments of every process of the host.
    """
    with client(gateway.engine_url) as http:
        containers = [http.get(f"/containers/{each['Id']}/json").json() for each in _containers(gateway, http)]
        nodes = [each for each in containers if each["Config"]["Labels"].get("caisson.cluster")]
        marks = _secrets(gateway, http, nodes)
        texts = _files(gateway.folder) | _processes() | {f"what Docker says of {c['Name']}": str(c) for c in containers}
        texts |= {f"the log of {each['Name']}": _log(http, each["Id"]) for each in containers}
        texts |= {f"Docker's {kind}": http.get(f"/{kind}").text for kind in ("volumes", "networks")}
    assert "the file gateway.log" in texts
    assert "the file caisson.db" in texts
    found = [leak for where, text in texts.items() for leak in marks.found_in(where, text)]
    # Too short to be looked for in whatever it may be wrapped in; and the gateway is told it by its environment.
    return found + [
        f"service password in {where}"
        for where, text in texts.items()
        if where.startswith("the file") and SERVICE_PASSWORD in text
    ]


def _containers(gateway: Gateway, http: httpx.Client) -> list[dict[str, Any]]:
    """Those of this gateway: there are others on the engine."""
    ((installation,),) = _rows(gateway, "SELECT uuid FROM installation")
    label = json.dumps({"label": [f"caisson.installation={installation}"]})
    listed: list[dict[str, Any]] = http.get("/containers/json", params={"all": "true", "filters": label}).json()
    return listed


def _rows(gateway: Gateway, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"file:{gateway.folder}/caisson.db?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


def _secrets(gateway: Gateway, http: httpx.Client, nodes: list[dict[str, Any]]) -> Marks:
    """Keys of authorities, all keys that nodes have, tokens by which nodes join, and the gateway's own."""
    marks = Marks()
    token = marks.add("token", gateway.keystone.token("alpha-member"))
    gateway.call("GET", "/v1/containers", token).raise_for_status()
    for line in kept_keys(gateway.folder / KEY_FILE):
        marks.add("key of the vault", line)
    vault = Vault(*kept_keys(gateway.folder / KEY_FILE))
    authorities = {}
    rows = _rows(gateway, "SELECT cluster_id, kind, certificate, private_key FROM cluster_key")
    for cluster, kind, certificate, sealed in rows:
        marks.add(f"{kind} key", core(vault.open(sealed)))
        if kind == "cluster":
            authorities[cluster] = Authority(certificate, vault.open(sealed))
    before = len(marks.made)
    for node in nodes:
        labels, said = node["Config"]["Labels"], _execute(http, node["Id"])
        for pem in PEM.findall(said):
            marks.add(f"a key on {labels['caisson.node']}", core(pem))
        for data in IN_KUBECONFIG.findall(said):
            marks.add(f"a key in a kubeconfig on {labels['caisson.node']}", data[:64])
        if labels["caisson.node"] == "default-master-0" and "/certs/ca.pem" in node["Args"]:
            (network,) = node["NetworkSettings"]["Networks"].values()
            address = network["IPAddress"]
            for role, token in _join_tokens(address, authorities[labels["caisson.cluster"]]).items():
                marks.add(f"token to join as {role}", token)
    assert len(marks.made) > before
    return marks


def _join_tokens(address: str, authority: Authority) -> dict[str, str]:
    """A swarm's, from one of its managers."""
    context = ssl.create_default_context(cadata=authority.certificate)
    mine = issue(authority, "somebody")
    with TemporaryDirectory() as folder:
        pair = Path(folder) / "pair.pem"
        pair.write_text(f"{mine.certificate}\n{mine.key}")
        context.load_cert_chain(pair)
    answer = httpx.get(f"https://{address}:2376/swarm", verify=context).raise_for_status()
    tokens: dict[str, str] = answer.json()["JoinTokens"]
    return tokens


def _execute(http: httpx.Client, ref: str) -> str:
    wish = {"Cmd": ON_NODES, "AttachStdout": True, "Tty": True}
    made = http.post(f"/containers/{ref}/exec", json=wish).raise_for_status().json()["Id"]
    return http.post(f"/exec/{made}/start", json={"Tty": True}).text.replace("\r", "")


def _log(http: httpx.Client, ref: str) -> str:
    return http.get(f"/containers/{ref}/logs", params={"stdout": "true", "stderr": "true"}).content.decode("latin-1")


def _files(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != KEY_FILE]
    return {f"the file {path.relative_to(folder)}": path.read_bytes().decode("latin-1") for path in files}


def _processes() -> dict[str, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            found[f"the command line of {folder.name}"] = (folder / "cmdline").read_bytes().decode("latin-1")
            found[f"the environment of {folder.name}"] = (folder / "environ").read_bytes().decode("latin-1")
    return found
