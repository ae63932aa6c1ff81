"""What every request passes first: who asks, how much at once, how long. Around the whole
application, so that routes which are added later are guarded too."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amodal.serve.limits import Limits, Refused
from amodal.serve.metrics import Metrics

log = logging.getLogger("amodal.serve")

OPEN = ("/health",)
"""Answered without a token and however busy the server is."""
UNCOUNTED = ("/health", "/metrics")
HEAD = 32 * 1024
"""Bytes of a request's path and headers."""
DRAIN = 2.0
"""Seconds for which the body of a refused request is still read, so that its sender hears why; a
connection that is closed while data are on their way is reset, and what was said with it."""


class Guard:
    """token: what `Authorization: Bearer TOKEN` must say, "" for none; hosts: names by which the
    server may be called, None for any. On a machine's own address this keeps web pages out that
    have had their name point there.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        token: str = "",
        hosts: Collection[str] | None = None,
    ):
        self.app, self.limits, self.metrics, self.token, self.hosts = (
            app,
            limits,
            metrics,
            token,
            hosts,
        )
        self.working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self.limits)
        began, counted = time.perf_counter(), scope["path"] not in UNCOUNTED
        refused = self._refused(scope, exchange.headers, counted)
        try:
            async with asyncio.timeout(self.limits.seconds):
                if refused is not None:
                    await exchange.answer(refused)
                    return
                self.working += counted
                self.metrics.working.set(self.working)
                try:
                    await self.app(scope, exchange.receive, exchange.send)
                finally:
                    self.working -= counted
                    self.metrics.working.set(self.working)
        except TimeoutError:
            slow = Refused(
                408, f"the request took longer than {self.limits.seconds:g} seconds to come in"
            )
            late = Refused(
                503, f"no answer within {self.limits.seconds:g} seconds", {"retry-after": "5"}
            )
            if exchange.status:  # a client that does not read its answer
                log.warning("an answer could not be sent in time")
                return
            await exchange.answer(late if exchange.whole else slow, drain=False)
        finally:
            self.metrics.asked(scope, exchange.status, time.perf_counter() - began)

    def _refused(self, scope: Scope, headers: dict[bytes, bytes], counted: bool) -> Refused | None:
        if (
            len(scope.get("raw_path") or b"")
            + len(scope["query_string"])
            + sum(map(_size, scope["headers"]))
            > HEAD
        ):
            return Refused(431, f"more than {HEAD:,} bytes of path and headers")
        if self.hosts is not None and _host(headers.get(b"host", b"")) not in self.hosts:
            return Refused(400, f"this server answers to {', '.join(sorted(self.hosts))} only")
        given = headers.get(b"authorization", b"")
        right = b"Bearer " + self.token.encode("utf-8")
        if self.token and scope["path"] not in OPEN and not hmac.compare_digest(given, right):
            return Refused(
                401,
                "a token is needed: Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            return Refused(415, "compressed bodies are not unpacked; send it as it is")
        length = headers.get(b"content-length", b"0")
        if len(length) > 15 or not length.isdigit() or int(length) > self.limits.upload:
            return _too_large(self.limits)
        if counted and self.working >= self.limits.concurrent:
            return Refused(
                429,
                f"{self.working} requests are being worked on; come back soon",
                {"retry-after": "1"},
            )
        return None


class Exchange:
    """One request and its answer. headers: the last of each name, in lower case; whole: the body
    has come in; status: of the answer, 0 before it has begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits):
        self._receive, self._send, self.limits = receive, send, limits
        self.headers = dict(scope["headers"])
        self.size, self.status = 0, 0
        self.whole = (
            self.headers.get(b"content-length", b"0") == b"0"
            and b"transfer-encoding" not in self.headers
        )

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            if self.size > self.limits.upload:
                raise _too_large(self.limits)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            if not self.whole:
                await self._drain()
            if not self.whole:  # else the server would go on reading an endless body for nobody
                headers.append((b"connection", b"close"))
            message = message | {"headers": headers}
            self.status = message[
                "status"
            ]  # and not before: while it is drained another answer may still be given
        await self._send(message)

    async def answer(self, refused: Refused, drain: bool = True) -> None:
        body = json.dumps({"error": refused.detail}).encode("ascii")
        more = [(k.encode(), v.encode()) for k, v in (refused.headers or {}).items()]
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *more,
        ]
        if not drain:
            self._drain = _nothing
        await self.send(
            {"type": "http.response.start", "status": refused.status_code, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": body})

    async def _drain(self) -> None:
        """Read what is left of the body and let it go, for a while. Who waits to be asked for it
        (Expect) is not asked."""
        if b"expect" in self.headers:
            return
        try:
            async with asyncio.timeout(DRAIN):
                while not self.whole and self.size <= 2 * self.limits.upload:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self.size += len(message.get("body", b""))
                    self.whole = not message.get("more_body", False)
        except TimeoutError:
            pass


async def _nothing() -> None:
    pass


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"more than {limits.upload:,} bytes in one request")


def _host(header: bytes) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit("//" + header.decode("ascii")).hostname or ""
    except ValueError:
        return ""
