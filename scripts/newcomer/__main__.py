"""``scripts/run`` once its packages are there: see its ``--help``."""

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from scripts.newcomer import cloud, cluster_demo, demo, engine, image, packages
from scripts.newcomer.cloud import Cloud
from scripts.newcomer.gateway import Gateway, check_data, check_port
from scripts.newcomer.packages import SetupError
from scripts.nodes import swarm

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Returns the exit code: 0 after Ctrl-C, 1 when something is missing, which is then the last line printed."""
    parser = argparse.ArgumentParser("scripts/run", add_help=False)
    parser.add_argument("--port", type=int, default=9517)
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".caisson")
    parser.add_argument("--no-demo", action="store_true")
    options = parser.parse_args()
    # Also where the shell that started this in the background ignores Ctrl-C, and when the terminal is closed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(options.port, options.data_dir, with_demo=not options.no_demo)
    except SetupError as error:
        print(f"scripts/run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Containers run on in their engine, and are there again after the next start.")
        return 0


def _run(port: int, data_dir: Path, *, with_demo: bool) -> int:
    began = time.monotonic()
    if any(name.upper().startswith("CAISSON_KEYSTONE") for name in os.environ):
        raise SetupError("CAISSON_KEYSTONE… is set; this script is for the embedded identity, with Keystone use: serve")
    check_port(port)
    check_data(data_dir)
    url = _engine()
    _tell("image", f"{image.NAME} ({image.ensure(url)})")
    nodes = _node_image(url)
    login = cloud.prepare(data_dir, f"http://127.0.0.1:{port}")
    gateway = Gateway(port, data_dir, url, login.password, cluster_demo.settings(nodes) if nodes else None)
    try:
        gateway.wait_until_it_serves()
        gateway.log_in(login)
        _tell("gateway", f"{gateway.url} (API documentation at {gateway.url}/docs, log in {gateway.log})")
        _tell("login", f"cloud {cloud.NAME}: user {cloud.USER}, project {cloud.PROJECT}, password in {login.file}")
        _tell("ready", f"after {time.monotonic() - began:.1f} seconds")
        if with_demo:
            print("\nThe main job, done by OpenStack's own client:")
            try:
                demo.show(gateway, login)
                if nodes is not None:
                    print("\nAnd a cluster: Docker Swarm on two nodes, which are containers:")
                    cluster_demo.show(gateway, login)
            except SetupError as error:
                print(f"scripts/run: the main job failed: {error}", file=sys.stderr)
        _tell_what_next(gateway, login)
        gateway.wait_for_its_end()
        raise SetupError(gateway.last_words())
    finally:
        gateway.stop()


def _engine() -> str:
    url = engine.find()
    if url is not None:
        _tell("engine", url)
        return url
    if packages.path_of("dockerd") is None and packages.may_install():
        _tell("engine", "none is there; installing Docker by apt-get ...")
    url = engine.start()
    _tell("engine", f"{url} (Docker, started now; it keeps running; to stop it: {engine.how_to_stop()})")
    return url


def _node_image(url: str) -> str | None:
    """The image of a swarm's nodes; None, and the user is told, where none can be made."""
    try:
        image, made = swarm.build(url)
    except SetupError as error:
        _tell("nodes", f"no clusters are shown: {error}")
        return None
    _tell("nodes", f"{image} ({'made of the packages of this system' if made else 'was there'})")
    return image


def _tell(what: str, text: str) -> None:
    print(f"{what:9}{text}", flush=True)


def _tell_what_next(gateway: Gateway, login: Cloud) -> None:
    lines = [f"source {shlex.quote(str(ROOT / '.venv/bin/activate'))}"]
    if not login.found_by_itself:
        # There is a clouds.yaml of the user's own, which is not ours to change.
        lines.append(f"export OS_CLIENT_CONFIG_FILE={shlex.quote(str(login.file.absolute()))}")
    do = f"openstack --os-cloud {cloud.NAME}"
    lines += [
        f"{do} appcontainer run --name clock {image.NAME} sh -c 'while date; do sleep 1; done'",
        f"{do} appcontainer exec clock ip address",
        f"{do} appcontainer logs clock",
        f"{do} appcontainer stats clock",
        f"{do} appcontainer delete --stop clock",
    ]
    print("\nTo try next, in another terminal:\n")
    print("\n".join(f"    {line}" for line in lines))
    print(f"\nServing {gateway.url} until you press Ctrl-C.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
