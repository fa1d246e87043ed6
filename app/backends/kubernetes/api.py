"""The API of a cluster of Kubernetes, asked with the driver's own certificate; every failure as one of our errors."""

import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx

from app.backends.driver import Keys
from app.backends.kubernetes.trust import admin, admin_bundle
from app.errors import EngineBug, EngineError, Gone, Refused, Taken, Unavailable

PATIENCE = 10.0
"""Seconds within which a call must be answered."""

MERGE = "application/merge-patch+json"
APPLY = {"fieldManager": "caisson", "force": "true"}

Document = dict[str, Any]


class ApiDown(Unavailable):
    """The cluster's API does not answer, or not sensibly: it may do so in a moment."""


class Api:
    """One cluster's API at `server`, an address as ``https://10.0.0.3:6443``; `answers` is whether it did last time."""

    def __init__(self, server: str, keys: Keys) -> None:
        self.server = server
        self.answers = True
        self.tls = context(keys)
        self._client = httpx.AsyncClient(verify=self.tls, timeout=PATIENCE, trust_env=False)

    async def close(self) -> None:
        self.answers = False
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Document:
        """The answer to a call. Raises EngineError in the words of the API server."""
        headers = {"Content-Type": kind}
        try:
            answer = await self._client.request(
                method, f"{self.server}{path}", params=query, json=body, headers=headers
            )
        except httpx.HTTPError as error:
            self.answers = False
            raise ApiDown(f"{self.server}: {_words(error)}") from error
        self.answers = True
        try:
            document: Document = answer.json()
        except ValueError:
            document = {"message": answer.text.strip()}
        if answer.is_success:
            return document
        raise failure(answer.status_code, str(document.get("message") or answer.reason_phrase))

    async def stream(
        self, path: str, query: Mapping[str, str] | None = None, *, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """An answer as it comes; with `follow` it may be silent for long. Raises EngineError as `call` does."""
        patience = httpx.Timeout(PATIENCE, read=None if follow else PATIENCE)
        try:
            async with self._client.stream("GET", f"{self.server}{path}", params=query, timeout=patience) as answer:
                if not answer.is_success:
                    words = (await answer.aread()).decode(errors="replace")
                    with suppress(ValueError):
                        words = str(json.loads(words).get("message") or words)
                    raise failure(answer.status_code, words)
                async for part in answer.aiter_raw():
                    yield part
        except httpx.HTTPError as error:
            raise ApiDown(f"{self.server}: {_words(error)}") from error

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The lines of an answer that comes by and by, as the documents of a watch do."""
        rest = b""
        async for part in self.stream(path, query, follow=True):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line

    async def ready(self, server: str | None = None) -> str:
        """ "ok", or why an API server (by default the one that clients ask) cannot do its work yet."""
        try:
            answer = await self._client.get(f"{server or self.server}/readyz?verbose")
        except httpx.HTTPError as error:
            return _words(error)
        if answer.is_success:
            return "ok"
        failed = [line.split()[0].removeprefix("[-]") for line in answer.text.splitlines() if line.startswith("[-]")]
        return f"not ready yet: {', '.join(failed) or answer.text.strip()[:200] or answer.status_code}"

    async def version(self) -> str:
        """The version of the API server, as ``v1.20.2``."""
        return str((await self.call("GET", "/version"))["gitVersion"])

    async def nodes(self) -> dict[str, Document]:
        """The nodes that have joined, by name."""
        listed = await self.call("GET", "/api/v1/nodes")
        return {item["metadata"]["name"]: item for item in listed["items"]}

    async def kubelet(self, node: str) -> str:
        """ "ok", or why the API server does not reach a node's kubelet, as it must for logs and commands."""
        try:
            await self.call("GET", f"/api/v1/nodes/{node}/proxy/healthz")
        except EngineError as error:
            return error.title
        return "ok"

    async def patch_node(self, name: str, patch: Mapping[str, Any]) -> None:
        await self.call("PATCH", f"/api/v1/nodes/{name}", patch, kind=MERGE)

    async def delete_node(self, name: str) -> None:
        """Forget a node; absent is fine."""
        try:
            await self.call("DELETE", f"/api/v1/nodes/{name}")
        except Gone:
            return

    async def pods_on(self, node: str) -> Sequence[Document]:
        """The pods that have to leave a node before it goes: not those which belong to it, nor those that are over."""
        query = {"fieldSelector": f"spec.nodeName={node}"}
        listed = await self.call("GET", "/api/v1/pods", query=query)
        return [pod for pod in listed["items"] if not _stays(pod)]

    async def evict(self, pod: Document, version: str) -> str:
        """Ask a pod to leave; "" or why it may not yet. `version` is that of the API group policy."""
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            return ""
        names = {"name": meta["name"], "namespace": meta["namespace"]}
        body = {"apiVersion": f"policy/{version}", "kind": "Eviction", "metadata": names}
        try:
            await self.call("POST", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction", body)
        except Gone:
            return ""
        except EngineError as error:
            return error.title
        return ""

    async def apply(self, path: str, document: Mapping[str, Any]) -> None:
        """Make or change an object to be as `document` says, whatever others added to it."""
        await self.call("PATCH", path, document, query=APPLY, kind="application/apply-patch+yaml")


def condition(node: Document) -> tuple[bool, str, datetime | None]:
    """Whether a node says that it is ready, else why not, and when it last said so."""
    for one in node.get("status", {}).get("conditions", ()):
        if one["type"] == "Ready":
            text = f"{one.get('reason', '')}: {one.get('message', '')}".strip(": ")
            beat = one.get("lastHeartbeatTime")
            at = datetime.strptime(beat, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) if beat else None
            return one["status"] == "True", text, at
    return False, "it has not said yet how it is", None


def context(keys: Keys) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=admin_bundle(keys))
    certified = admin(keys)
    # The library takes a client's certificate from a file only.
    with tempfile.NamedTemporaryFile(prefix="caisson-", suffix=".pem") as file:
        file.write(f"{certified.certificate}\n{certified.key}".encode())
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _stays(pod: Document) -> bool:
    meta = pod["metadata"]
    owners = [owner["kind"] for owner in meta.get("ownerReferences", ())]
    mirrored = "kubernetes.io/config.mirror" in meta.get("annotations", {})
    return mirrored or "DaemonSet" in owners or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def failure(status: int, words: str) -> EngineError:
    if status == 404:
        return Gone(words)
    if status == 409:
        return Taken(words)
    if status == 429 or status >= 500:
        return ApiDown(words)
    if status >= 400:
        return Refused(words)
    return EngineBug(f"{status}: {words}")


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
