"""A small stand-in for the Hugging Face hub on 127.0.0.1: what huggingface_hub and datasets ask of it, and no more."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")  # files that the hub keeps beside git: their ETag is a SHA-256


@dataclass
class Repository:
    """One repository: its files by revision and path. A gated one hands out files only to `reader`, an access token."""

    kind: str  # "model" or "dataset"
    name: str
    revisions: dict[str, dict[str, bytes]]
    reader: str | None = None

    def commit(self, revision: str) -> str:
        """The 40 hexadecimal digits that a branch or tag stands for."""
        return hashlib.sha1(f"{self.kind} {self.name} {revision}".encode()).hexdigest()

    def resolve(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch, tag or commit; None when there is none."""
        for name, files in self.revisions.items():
            if revision in (name, self.commit(name)):
                return self.commit(name), files
        return None


@dataclass
class Request:
    """One request as the server saw it; `target` is the path with its query, or the host that a proxy was asked for."""

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)


class HubServer(ThreadingHTTPServer):
    """The hub for some repositories; use it in `with`. `requests` records everything that was asked.

    `cuts` maps the name of a file to a number of bytes: the next transfer of it from its start breaks off after them.
    `known` are the access tokens that the hub accepts; a request with another one is refused.
    """

    daemon_threads = True

    def __init__(self, *repositories: Repository, known: tuple[str, ...] = ()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {(repository.kind, repository.name): repository for repository in repositories}
        self.known, self.requests, self.cuts = known, [], {}
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}/storage"  # large files come from another host than the hub

    def __enter__(self):
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def asked(self, ending: str, method: str = "GET") -> list[Request]:
        """The requests with this method whose path ends so."""
        return [each for each in self.requests if each.method == method and each.target.endswith(ending)]


class Handler(BaseHTTPRequestHandler):
    """Answers like the hub: /api/..., /REPOSITORY/resolve/REVISION/FILE, and large files by a redirect to /storage."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        """Record the request and answer it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(Request(self.command, self.path, dict(self.headers)))
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.known and not path.startswith("/storage/"):
            return self.refuse(401, None, "Invalid credentials in Authorization header")
        if stored := re.fullmatch(r"/storage/(?P<digest>[0-9a-f]{64})/(?P<name>[^/]+)", path):
            return self.send_stored(**stored.groupdict())
        if api := re.fullmatch(r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)/(?P<call>.+)", path):
            return self.answer(**api.groupdict(), token=token, body=body)
        if file := re.fullmatch(
            r"/(?P<prefix>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", path
        ):
            return self.send_file(**file.groupdict(), token=token)
        return self.refuse(404, "RepoNotFound", "Repository not found")

    do_HEAD = do_POST = do_CONNECT = do_GET  # noqa: N815

    def answer(self, kind: str, name: str, call: str, token: str, body: bytes):
        """The calls of the API: auth-check, revision/R, tree/R[/FOLDER], paths-info/R."""
        repository = self.server.repositories.get((kind, name))
        if repository is None:  # the hub does not tell strangers which private repositories there are
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if call == "auth-check":
            return self.gate(repository, token) or self.send_json({})
        verb, revision, *folder = call.split("/", 2)
        if (resolved := repository.resolve(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = resolved
        entries = {path: describe_file(path, content) for path, content in files.items()}
        for path in files:
            for depth in range(1, path.count("/") + 1):
                parent = "/".join(path.split("/")[:depth])
                entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
        if verb == "revision":
            return self.send_json(
                {"_id": "0", "id": name, "sha": commit, "private": False, "siblings": [{"rfilename": f} for f in files]}
            )
        if verb == "paths-info":
            asked = parse_qs(body.decode()).get("paths", [])
            return self.send_json([entries[path] for path in asked if path in entries])
        start = f"{folder[0]}/" if folder else ""
        below = [entry for path, entry in sorted(entries.items()) if path.startswith(start)]
        if parse_qs(urlsplit(self.path).query).get("recursive") not in (["True"], ["true"]):
            below = [entry for entry in below if "/" not in entry["path"].removeprefix(start)]
        return self.send_json(below) if below else self.refuse(404, "EntryNotFound", "Entry not found")

    def send_file(self, prefix: str | None, name: str, revision: str, path: str, token: str):
        """A file at a revision: its content, or a redirect to the storage of large files."""
        repository = self.server.repositories.get(("dataset" if prefix else "model", name))
        if repository is None:
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if (resolved := repository.resolve(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = resolved
        if refused := self.gate(repository, token):
            return refused
        if path not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        entry = describe_file(path, files[path])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" not in entry:
            return self.send(200, files[path], headers)
        digest = entry["lfs"]["oid"]
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(entry["size"])}
        location = f"{self.server.storage}/{digest}/{Path(path).name}"
        return self.send(302, b"", headers | {"Location": location})

    def send_stored(self, digest: str, name: str):
        """A large file by its SHA-256, whole or from the byte that a Range header asks for."""
        content = next(
            content
            for repository in self.server.repositories.values()
            for files in repository.revisions.values()
            for content in files.values()
            if hashlib.sha256(content).hexdigest() == digest
        )
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.send(200, content, {"ETag": f'"{digest}"'}, self.server.cuts.pop(name, None))
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        headers = {"ETag": f'"{digest}"', "Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return self.send(206, content[first : last + 1], headers)

    def gate(self, repository: Repository, token: str) -> bool:
        """Refuse a request to a gated repository that has no token, or not that of its reader; whether it was."""
        if repository.reader in (None, token):
            return False
        return self.refuse(403 if token else 401, "GatedRepo", f"Access to {repository.name} is restricted.")

    def refuse(self, status: int, code: str | None, message: str, headers: dict | None = None) -> bool:
        """An error as the hub words it."""
        known = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        return self.send(status, json.dumps({"error": message}).encode(), known | (headers or {}))

    def send_json(self, content) -> bool:
        """An answer of the API."""
        return self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict, cut: int | None = None) -> bool:
        """An answer; with `cut` its connection is closed after so many bytes of the content."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
            self.close_connection = self.close_connection or cut is not None
        return True


def describe_file(path: str, content: bytes) -> dict:
    """A file as the hub's tree lists it."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry
