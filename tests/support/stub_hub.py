"""A model hub on loopback: what huggingface_hub needs to create a repository, push files and fetch them again."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 39 + "1"


class Handler(BaseHTTPRequestHandler):
    """Repositories live in `server.repos`: name -> file name -> content."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def reply(self, status=200, body=b"", headers=()) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.server.repos.setdefault(name, {})
            self.reply(body={"url": f"{self.server.url}/{name}", "id": name, "name": name})
        elif path == "/api/validate-yaml":
            self.reply(body={"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.reply(body={"files": files})
        elif "/commit/" in path:
            files = self.server.repos[self.repo_of(path)]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{self.repo_of(path)}/commit/{COMMIT}"
            self.reply(body={"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self.reply(404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self.reply(body={"name": "user", "type": "user", "orgs": []})
        elif path.startswith("/api/models/"):
            self.reply_about(self.repo_of(path))
        elif "/resolve/" in path:
            repo, _, rest = path.strip("/").partition("/resolve/")
            self.reply_file(repo, rest.partition("/")[2])
        else:
            self.reply(404)

    do_HEAD = do_GET

    def repo_of(self, path: str) -> str:
        return "/".join(path.split("/")[3:5])

    def reply_about(self, repo: str) -> None:
        if repo not in self.server.repos:
            self.reply(404, headers={"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": name} for name in self.server.repos[repo]]
        if "/tree/" in self.path:
            self.reply(body=[])
        else:
            self.reply(
                body={"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            )

    def reply_file(self, repo: str, name: str) -> None:
        content = self.server.repos.get(repo, {}).get(name)
        if content is None:
            self.reply(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        etag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        if self.server.cut_off and self.command == "GET" and len(content) > 10_000:
            content, self.close_connection = content[: len(content) // 2], True
            headers["Content-Length"] = str(2 * len(content))
        self.reply(body=content, headers=headers)


class StubHub(ThreadingHTTPServer):
    """`with StubHub() as hub: threading.Thread(target=hub.serve_forever, daemon=True).start()`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.cut_off = False  # whether large files end in the middle

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to take this for the Hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": "dummy",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "no_proxy": "*",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"
