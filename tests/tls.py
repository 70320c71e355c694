"""Certificates for servers of tests: an authority, a server of localhost, and a client, signed by it."""

import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from deploy.servers import find, stopped, tethered, usable_port


class Signed(NamedTuple):
    """Files: of the authority, and of what it signed."""

    ca: Path
    cert: Path
    key: Path


def authority(folder: Path) -> Signed:
    """`localhost` as a server and as a client."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key, cert, key, asked = (folder / name for name in ("ca.crt", "ca.key", "both.crt", "both.key", "both.csr"))
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-sha256"]
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost")
    commands: list[list[str | Path]] = [
        [*new, "-x509", "-days", "2", "-subj", "/CN=an authority", "-keyout", ca_key, "-out", ca],
        [*new, "-subj", "/CN=localhost", "-keyout", key, "-out", asked],
        ["openssl", "x509", "-req", "-days", "2", "-in", asked, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
         "-extfile", names, "-out", cert],
    ]  # fmt: skip
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return Signed(ca, cert, key)


@contextmanager
def redis(folder: Path, signed: Signed, users: Path) -> Iterator[int]:
    """The port of a Redis that speaks TLS alone, with those who have such a certificate, and knows these users."""
    port = usable_port()
    command = [find("redis-server", "redis-server"), "--bind", "127.0.0.1", "--port", "0", "--tls-port", str(port),
               "--dir", str(folder), "--save", "", "--aclfile", str(users), "--tls-ca-cert-file", str(signed.ca),
               "--tls-cert-file", str(signed.cert), "--tls-key-file", str(signed.key)]  # fmt: skip
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(tethered(command), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None, (folder / "redis.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield port
    finally:
        stopped(process)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@contextmanager
def before(port: int, signed: Signed) -> Iterator[int]:
    """A port that speaks TLS and hands what it hears to another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.cert, signed.key)
    with socket.create_server(("127.0.0.1", usable_port())) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=_joined, args=(connection, context, port), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _joined(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """Until either side hangs up."""
    address = ("127.0.0.1", port)
    with (
        suppress(OSError),
        plain,
        context.wrap_socket(plain, server_side=True) as outer,
        socket.create_connection(address) as inner,
    ):
        while True:
            ready = [outer] if outer.pending() else select.select([outer, inner], [], [])[0]
            for source in ready:
                if not (data := source.recv(65_536)):
                    return
                (inner if source is outer else outer).sendall(data)
