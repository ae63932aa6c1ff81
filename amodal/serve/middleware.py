"""The limits that every request passes first: token, host, size, concurrency, time. They stand
around the complete application, so that routes which are added later have them too."""

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

PUBLIC = ("/health",)
"""Need no token, and are served however busy the server is."""
UNCOUNTED = ("/health", "/metrics")
MAX_HEAD = 32 * 1024
"""Bytes of a request's path and headers."""
DRAIN = 2.0
"""Seconds for which the body of a refused request is still read. A connection that is closed while
data are on their way is reset, and the client never sees the error."""


class LimitsMiddleware:
    """ASGI middleware that refuses requests beyond the limits.

    Args:
        app: The application inside.
        limits: What a request may cost.
        metrics: Where requests are counted.
        token: That `Authorization: Bearer TOKEN` must hold, "" for none.
        hosts: Names by which the server may be called, None for any. On a machine's local address
            this keeps out web pages whose name was pointed there (DNS rebinding).
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
                    await exchange.refuse(refused)
                    return
                self.working += counted
                self.metrics.working.set(self.working)
                try:
                    await self.app(scope, exchange.receive, exchange.send)
                finally:
                    self.working -= counted
                    self.metrics.working.set(self.working)
        except TimeoutError:
            too_slow = Refused(
                408, f"the request took longer than {self.limits.seconds:g} seconds to come in"
            )
            too_late = Refused(
                503, f"no answer within {self.limits.seconds:g} seconds", {"retry-after": "5"}
            )
            if exchange.status:  # a client that does not read the response
                log.warning("a response could not be sent in time")
                return
            # not drained: the time is over, and what is left of the body may be what took it
            await exchange.refuse(too_late if exchange.complete else too_slow, drain=False)
        finally:
            self.metrics.observe(scope, exchange.status, time.perf_counter() - began)

    def _refused(self, scope: Scope, headers: dict[bytes, bytes], counted: bool) -> Refused | None:
        if (
            len(scope.get("raw_path") or b"")
            + len(scope["query_string"])
            + sum(map(_size, scope["headers"]))
            > MAX_HEAD
        ):
            return Refused(431, f"more than {MAX_HEAD:,} bytes of path and headers")
        if self.hosts is not None and _host(headers.get(b"host", b"")) not in self.hosts:
            return Refused(400, f"this server is called {', '.join(sorted(self.hosts))} only")
        authorization = headers.get(b"authorization", b"")
        expected = b"Bearer " + self.token.encode("utf-8")
        # compared in constant time: a quicker refusal would say how far a guess is right
        if (
            self.token
            and scope["path"] not in PUBLIC
            and not hmac.compare_digest(authorization, expected)
        ):
            return Refused(
                401,
                "a token is needed: Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            return Refused(415, "compressed bodies are not unpacked; send it as it is")
        length = headers.get(b"content-length", b"0")
        # its length first: of thousands of digits `int` is slow, or raises
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
    """One request and its response.

    Attributes:
        headers: The last of each name, in lower case.
        complete: Whether the whole body has come in.
        size: Bytes of the body so far.
        status: Of the response, 0 before it has begun.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits):
        self._receive, self._send, self.limits = receive, send, limits
        self.headers = dict(scope["headers"])
        self.size, self.status, self._draining = 0, 0, True
        self.complete = (
            self.headers.get(b"content-length", b"0") == b"0"
            and b"transfer-encoding" not in self.headers
        )

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.size > self.limits.upload:
                raise _too_large(self.limits)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            if not self.complete and self._draining:
                await self._drain()
            if not self.complete:  # else the server would go on reading an endless body for nobody
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
            # Not before: while the body is drained, another response may still be sent.
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, refused: Refused, *, drain: bool = True) -> None:
        """Respond with an error. drain: read what is left of the body first."""
        body = json.dumps({"error": refused.detail}).encode("ascii")
        more = [(k.encode(), v.encode()) for k, v in (refused.headers or {}).items()]
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *more,
        ]
        if not drain:
            self._draining = False
        await self.send(
            {"type": "http.response.start", "status": refused.status_code, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": body})

    async def _drain(self) -> None:
        """Read what is left of the body and drop it, for a while. A client that waits to be asked
        for it (Expect) is not asked."""
        if b"expect" in self.headers:
            return
        try:
            async with asyncio.timeout(DRAIN):
                while not self.complete and self.size <= 2 * self.limits.upload:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self.size += len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            pass


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"more than {limits.upload:,} bytes in one request")


def _host(header: bytes) -> str:
    """The name in a Host header, without the port; "" for what is none, such as user@name."""
    if set(header) & set(b"@/?#\\ \t"):
        return ""
    try:
        return urlsplit("//" + header.decode("ascii")).hostname or ""
    except ValueError:
        return ""
