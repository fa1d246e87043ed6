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

from app.backends.docker.calls import Calls, next_chunk
from app.certificates import Authority, issue, make_authority
from app.errors import Unavailable

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n"


@contextmanager
def silent_node(
    authority: Authority, connected: threading.Event | None = None, greet: threading.Event | None = None
) -> Iterator[int]:
    """A port where one stream begins, over TLS, and nobody says goodbye: as a node that was frozen or unplugged.

    It tells when somebody has `connected`, and begins with TLS when it may `greet`.
    """
    certified = issue(authority, "node", hosts=["127.0.0.1"], server=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{certified.certificate}\n{certified.key}")
        file.flush()
        tls.load_cert_chain(file.name)
    over = threading.Event()

    def serve() -> None:
        incoming = server.accept()[0]
        if connected and greet:
            connected.set()
            greet.wait()
        with suppress(OSError), tls.wrap_socket(incoming, server_side=True) as connection:
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


def test_a_connection_that_is_being_made_does_not_outlive_its_engine() -> None:
    authority = make_authority("cluster")
    connected, closed = threading.Event(), threading.Event()

    async def close_meanwhile(port: int) -> None:
        calls = Calls("node", f"tcp://127.0.0.1:{port}", 1, ssl.create_default_context(cadata=authority.certificate))
        asking = asyncio.create_task(calls.call("GET", "version"))
        await asyncio.to_thread(connected.wait)
        await calls.close()
        closed.set()
        with suppress(Unavailable):
            await asking

    with silent_node(authority, connected, closed) as port, warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        asyncio.run(close_meanwhile(port))
        gc.collect()
    assert [str(one.message) for one in left] == []
