"""A server on this machine with the routes of the Hugging Face Hub that its package asks for."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories with their revisions, {repo: {commit: {file: content}}}, the last one main."""

    def __init__(self):
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.private: set[str] = set()
        self.asked: list[str] = []

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        revisions = self.repos.setdefault(repo, {})
        before = list(revisions.values())[-1] if revisions else {}
        name = hashlib.sha1(f"{repo} {len(revisions)}".encode()).hexdigest()
        revisions[name] = before | files
        return name

    def resolve(self, repo: str, revision: str) -> str | None:
        revisions = self.repos[repo]
        if revision == "main" and revisions:
            return list(revisions)[-1]
        return revision if revision in revisions else None


class Handler(BaseHTTPRequestHandler):
    """Answers like the Hub."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    token = "Bearer hf_test"

    def log_message(self, format, *args):
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, content: bytes = b"", status: int = 200, headers: dict | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value, status: int = 200, headers: dict | None = None):
        headers = {"Content-Type": "application/json"} | (headers or {})
        self._send(json.dumps(value).encode(), status, headers)

    def _error(self, status: int, code: str):
        self._json({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

    def _found(self, repo: str, revision: str) -> str | None:
        """Returns the commit; answers with an error if there is none."""
        hidden = repo in self.hub.private and self.headers.get("Authorization") != self.token
        if repo not in self.hub.repos or hidden:
            self._error(404, "RepoNotFound")
            return None
        commit = self.hub.resolve(repo, revision)
        if commit is None:
            self._error(404, "RevisionNotFound")
        return commit

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if commit := self._found(match[1], match[2] or "main"):
                files = [{"rfilename": name} for name in self.hub.repos[match[1]][commit]]
                self._json({"id": match[1], "sha": commit, "siblings": files, "private": False})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(/.*)?", path):
            if commit := self._found(match[1], match[2]):
                self._json(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": "0"}
                        for name, content in self.hub.repos[match[1]][commit].items()
                    ]
                )
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if commit := self._found(match[1], match[2]):
                content = self.hub.repos[match[1]][commit].get(match[3])
                if content is None:
                    self._error(404, "EntryNotFound")
                    return
                digest = hashlib.sha256(content).hexdigest()
                headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
                headers |= {"X-Linked-Size": str(len(content)), "Content-Length": str(len(content))}
                self._send(content, 200, headers)
        elif path == "/api/whoami-v2":
            self._json({"name": "me", "type": "user", "auth": {}})
        else:
            self._error(404, "NotFound")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.asked.append(f"{self.command} {path}")
        if self.headers.get("Authorization") != self.token and path != "/api/validate-yaml":
            self._error(401, "Unauthorized")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.repos.setdefault(repo, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(repo)
            self._json({"url": f"http://{self.headers['Host']}/{repo}", "name": repo})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            large = (".safetensors",)
            self._json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = f"http://{self.headers['Host']}/upload/"
            self._json(
                {
                    "transfer": "basic",
                    "objects": [
                        one | {"actions": {"upload": {"href": f"{upload}{one['oid']}"}}}
                        for one in objects
                    ],
                }
            )
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            files = {}
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
            commit = self.hub.commit(match[1], files)
            url = f"http://{self.headers['Host']}/{match[1]}/commit/{commit}"
            self._json({"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self._error(404, "NotFound")

    def do_PUT(self):
        content = self._body()
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self._send()


@contextmanager
def local_hub() -> Iterator[tuple[Hub, str]]:
    """Serves an empty Hub within the block; yields it and its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
