"""A stand-in for the Hugging Face Hub: what the real client asks of it to make a repository, push a
folder and fetch files, over HTTP on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Hub:
    """Repositories in memory.

    Attributes:
        address: Of the server.
        commits: repository -> its commits, oldest first, each (hash, path -> content).
        private: repository -> whether strangers see it.
        requests: All that was asked, as `METHOD /path`.
    """

    address: str = ""
    commits: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def files(self, repo: str) -> dict[str, bytes]:
        """Of the newest commit."""
        return self.commits[repo][-1][1]

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit with these files beside those of before; its hash."""
        history = self.commits.setdefault(repo, [])
        whole = {**(history[-1][1] if history else {}), **files}
        digest = hashlib.sha1(f"{repo}{len(history)}".encode()).hexdigest()
        history.append((digest, whole))
        return digest

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[repo][-1]
        return next((c for c in self.commits[repo] if c[0] == revision), None)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """No lines in the output of tests."""

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for command, pattern, act in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in command.split():
                return act(self, body, **match.groupdict())
        self.refuse(404, "NoSuchRoute")

    do_GET = do_HEAD = do_POST = handle_request

    def may_see(self, repo: str) -> bool:
        known = repo in self.hub.commits
        return known and (not self.hub.private.get(repo) or bool(self.headers.get("Authorization")))

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if not self.headers.get("Authorization"):
            return self.refuse(401, "Unauthorized")
        if repo not in self.hub.commits:
            self.hub.private[repo] = asked.get("visibility") == "private" or bool(
                asked.get("private")
            )
            self.hub.commit(repo, {".gitattributes": b""})
        self.answer(200, {"url": f"{self.hub.address}/{repo}"})

    def preupload(self, body: bytes, repo: str) -> None:
        if not self.may_see(repo):
            return self.refuse(404, "RepoNotFound")
        paths = [file["path"] for file in json.loads(body)["files"]]
        files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
        self.answer(200, {"files": files})

    def push(self, body: bytes, repo: str) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        digest = self.hub.commit(repo, {f["path"]: base64.b64decode(f["content"]) for f in files})
        url = f"{self.hub.address}/{repo}/commit/{digest}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": digest})

    def info(self, body: bytes, repo: str, revision: str = "main") -> None:
        if not self.may_see(repo):
            return self.refuse(404, "RepoNotFound")
        if (commit := self.hub.at(repo, revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        siblings = [{"rfilename": path} for path in commit[1]]
        self.answer(200, {"id": repo, "sha": commit[0], "siblings": siblings})

    def tree(self, body: bytes, repo: str, revision: str) -> None:
        if not self.may_see(repo):
            return self.refuse(404, "RepoNotFound")
        if (commit := self.hub.at(repo, revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        self.answer(
            200,
            [
                {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for p, c in commit[1].items()
            ],
        )

    def resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        if not self.may_see(repo):
            return self.refuse(404, "RepoNotFound")
        if (commit := self.hub.at(repo, revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        digest, files = commit
        if path not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=digest)
        etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        self.answer(200, files[path], ETag=etag, X_Repo_Commit=digest)

    def validate(self, body: bytes) -> None:
        self.answer(200, {"errors": [], "warnings": []})


ROUTES = [
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", f"/api/models/{REPO}/preupload/main", Handler.preupload),
    ("POST", f"/api/models/{REPO}/commit/main", Handler.push),
    ("GET", f"/api/models/{REPO}", Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", Handler.tree),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub on a free port of this machine."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
