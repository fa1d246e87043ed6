"""Runs all benchmarks and prints one line each; the name of a part runs only that."""

import asyncio
import os
import sys

from benchmarks import clusters, idle, lifecycle, neighbours, reads, streams, watching
from benchmarks.served import caisson
from scripts.nodes import swarm
from tests.stack import debian, docker, images, kubernetes, postgres
from tests.stack.session import Stack


def show(line: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """One process for all, as a user's would be."""
    parts = sys.argv[1:] or ["lifecycle", "reads", "streams", "watching", "clusters", "neighbours", "idle"]
    stack = Stack.open()
    try:
        if {"reads", "clusters", "neighbours", "idle"} & set(parts):
            debian.program("wrk")
        os.environ["DOCKER_HOST"] = url = docker.engine(stack)
        images.build(url)
        if "watching" in parts:
            show(asyncio.run(watching.measure()))
            show(asyncio.run(watching.mourn()))
            show(asyncio.run(watching.look(url)))
        if "clusters" in parts:
            debian.program("docker")
            nodes = {"swarm": swarm.build(url)[0], "kubernetes": kubernetes.image(url)}
            for line in clusters.measure(nodes):
                show(line)
        if "neighbours" in parts:
            with caisson(environment=neighbours.LIMITS) as served:
                for line in neighbours.compare(served):
                    show(line)
        if "idle" in parts:
            with caisson(environment=idle.SETTINGS) as served:
                for line in asyncio.run(idle.compare(served)):
                    show(line)
        if set(parts) - {"watching", "clusters", "neighbours", "idle"}:
            run(parts)
        if "reads" in parts:
            server = postgres.Postgres(postgres.start(stack))
            on_postgresql(server.create("benchmark"))
    finally:
        stack.close()


def run(parts: list[str]) -> None:
    """The chosen parts, on the engine at DOCKER_HOST."""
    with caisson() as first:
        show(f"cold start to first answer, empty database: {first.cold_start:.2f} s (aim < 1.5)")
    with caisson(log_mib=streams.LOG_MIB) as served:
        show(f"resident memory after start: {served.memory():.0f} MiB (aim < 150)")
        if "lifecycle" in parts:
            for line in asyncio.run(lifecycle.compare(served)):
                show(line)
        if "reads" in parts:
            uuid = asyncio.run(reads.fill(served, 100))
            for line in reads.compare(served, uuid):
                show(line)
            asyncio.run(reads.empty(served))
        if "streams" in parts:
            for line in asyncio.run(streams.compare(served)):
                show(line)
        show(f"resident memory after the load: {served.memory():.0f} MiB (aim < 150)")


def on_postgresql(database_url: str) -> None:
    """The reads where replicas may share the database, so that each has to ask it."""
    with caisson(database_url) as served:
        uuid = asyncio.run(reads.fill(served, 100))
        for line in reads.compare(served, uuid):
            show(f"PostgreSQL: {line}")
        asyncio.run(reads.empty(served))


if __name__ == "__main__":
    main()
