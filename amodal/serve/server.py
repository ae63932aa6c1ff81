"""Running the application on a port."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Collection
from pathlib import Path

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from amodal.core import AmodalError
from amodal.model import load
from amodal.serve.api import app
from amodal.serve.limits import Limits
from amodal.serve.middleware import MAX_HEAD

LOCAL = ("localhost", "127.0.0.1", "::1")
HEAD_TIMEOUT = 10.0
"""Seconds in which a request's head must be there."""
MAX_CONNECTIONS = 1000
TOKEN = "AMODAL_TOKEN"


class HeadTimeoutProtocol(H11Protocol):
    """HTTP/1.1 that closes connections whose request head does not come within HEAD_TIMEOUT."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()


def uvicorn_config(
    application: ASGIApp, *, host: str = "127.0.0.1", port: int = 8000, level: str = "warning"
) -> uvicorn.Config:
    """Configure uvicorn: no WebSockets, no server name, bounded heads and connections."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        http=HeadTimeoutProtocol,
        ws="none",
        log_level=level,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
    )


def serve(
    run: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    index: str | Path | None = None,
    token: str = "",
    names: Collection[str] = (),
    anyone: bool = False,
    device: str = "auto",
    limits: Limits | None = None,
) -> None:
    """Serve a run until it is interrupted.

    Args:
        run: The run folder.
        host: "127.0.0.1" takes requests of this machine only.
        port: 0 for any that is free.
        index: The folder or address of the index; RUN/index if None.
        token: See `app`.
        names: By which a proxy on this machine calls the server, besides localhost.
        anyone: Take requests from elsewhere without a token.
        device: auto, cpu, cuda, cuda:N.
        limits: What a request may cost.

    Raises:
        AmodalError: For a host that is open to the network without a token, and for a port that is
            taken.
    """
    local = host in LOCAL
    if not local and not token and not anyone:
        raise AmodalError(
            f"on {host} everyone on the network could use this server. Give a token (--token-file "
            f"FILE, or the variable {TOKEN}), or say --anyone"
        )
    with listen(host, port) as bound:
        hosts = {*LOCAL, *names} if local else None
        made = app(load(run, device=device), index=index, limits=limits, token=token, hosts=hosts)
        shown = f"[{host}]" if ":" in host else host
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        address = f"http://{shown}:{bound.getsockname()[1]}/docs"
        print(f"{address} describes the API of this server. Stop it with Ctrl-C.", flush=True)
        uvicorn.Server(uvicorn_config(made)).run([bound])


def listen(host: str, port: int) -> socket.socket:
    """Open a socket on this port, 0 for any that is free. Raises AmodalError for a port that is
    taken, and for a host that is not this machine's."""
    if not 0 <= port < 2**16:
        raise AmodalError(f"a port is a number from 0 to {2**16 - 1}, not {port}")
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(2048)
    except OSError as error:
        made.close()
        other = port + 1 if port + 1 < 2**16 else port - 1
        instead = f"Take another, such as --port {other}, or --port 0 for any that is free"
        raise AmodalError(
            f"cannot listen on port {port} of {host}: {error.strerror}. {instead}"
        ) from None
    return made


def read_token(file: str | Path | None) -> str:
    """Read the token from a file or the variable AMODAL_TOKEN, so that it stands in no list of
    processes; "" for none. Raises AmodalError for an empty file, and for a token that a header
    cannot carry."""
    token = (
        Path(file).read_text(encoding="utf-8") if file is not None else os.environ.get(TOKEN, "")
    ).strip()
    if file is not None and not token:
        raise AmodalError(f"the token file {file} is empty")
    if not token.isascii() or any(c.isspace() for c in token):
        raise AmodalError("a token is one word of ASCII letters, digits and signs")
    return token
