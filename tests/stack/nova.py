"""The few answers of Nova that clusters ask for: flavors in pages, and key pairs. Started as a thread of the test."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

FLAVORS = [
    {"id": str(number), "name": name, "vcpus": vcpus, "ram": ram, "disk": disk}
    for number, (name, vcpus, ram, disk) in enumerate([("m1.small", 1, 2048, 20), ("m1.medium", 2, 4096, 40)], 1)
]
KEYPAIRS = ("default", "with/slash")
TOKEN = "good"


class _Nova(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.headers["X-Auth-Token"] != TOKEN:
            self._answer(403, {})
        elif url.path == "/v2.1/flavors/detail":  # one in each page
            after = parse_qs(url.query).get("marker", ["0"])[0]
            page = FLAVORS[int(after) :][:1]
            more = [{"rel": "next", "href": "…"}] if int(after) + 1 < len(FLAVORS) else []
            self._answer(200, {"flavors": page, "flavors_links": more})
        elif url.path.startswith("/v2.1/os-keypairs/"):
            name = unquote(url.path.rpartition("/")[2])
            self._answer(200 if name in KEYPAIRS else 404, {"keypair": {"name": name}})
        else:
            self._answer(500, {})

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written."""

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serve() -> Iterator[str]:
    """Its address while the block lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Nova) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v2.1"
        finally:
            server.shutdown()
            thread.join()
