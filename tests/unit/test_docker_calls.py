"""What connections to engines leave behind."""

import asyncio
import gc
import ssl
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import create_server

from app.backends.docker_calls import Calls, next_chunk
from app.certificates import Authority, issue, make_authority

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n"


@contextmanager
def silent_node(authority: Authority) -> Iterator[int]:
    """A port where one stream begins, over TLS, and nobody says goodbye: as a node that was frozen or unplugged."""
    certified = issue(authority, "node", hosts=["127.0.0.1"], server=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{certified.certificate}\n{certified.key}")
        file.flush()
        tls.load_cert_chain(file.name)
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError), tls.wrap_socket(server.accept()[0], server_side=True) as connection:
            connection.recv(4096)
            connection.sendall(HEAD)
            over.wait()

    with create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        over.set()
        thread.join()


def test_a_stream_that_was_cut_off_leaves_no_connection_to_a_silent_node() -> None:
    authority = make_authority("cluster")

    async def listen(port: int, *, to_its_end: bool) -> None:
        calls = Calls("node", f"tcp://127.0.0.1:{port}", 1, ssl.create_default_context(cadata=authority.certificate))
        async with calls.reply("GET", "events", versioned=False) as response:
            assert await next_chunk(response, 5) == b"{}\n"
            if not to_its_end:
                await calls.close()
        await calls.close()

    for to_its_end in (True, False):
        with silent_node(authority) as port, warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            asyncio.run(listen(port, to_its_end=to_its_end))
            gc.collect()
        assert [str(one.message) for one in left] == []
