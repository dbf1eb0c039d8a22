"""A Hub on the loopback, in memory: what `push_to_hub` and `from_pretrained` ask for, and no more."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """
    Attributes:
        endpoint (`str`): the value of HF_ENDPOINT.
        commits (`dict[str, dict[str, dict[str, bytes]]]`): files by repository, commit and path, oldest commit first.
        branches (`dict[str, dict[str, str]]`): newest commit by repository and branch.
        private (`set[str]`): repositories that were made private.
        refusal (`int`, *optional*): the status with which writing is refused.
        failure (`int`, *optional*): the status with which reading fails.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.commits, self.branches, self.private, self.refusal = {}, {}, set(), None
        self.failure = None

    def commit(self, repo_id: str, files: dict[str, bytes], branch: str = "main", deleted: tuple = ()) -> str:
        """Add `files` to the newest commit of a branch, as a new one, and return its id."""
        commits, branches = self.commits.setdefault(repo_id, {}), self.branches.setdefault(repo_id, {})
        commit_id = hashlib.sha1(f"{repo_id} {len(commits)}".encode()).hexdigest()
        before = {path: data for path, data in self.files(repo_id, branch).items() if path not in deleted}
        commits[commit_id] = {**before, **files}
        branches[branch] = commit_id
        return commit_id

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch by path."""
        return self.commits[repo_id].get(self.branches[repo_id].get(branch), {})


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(unquote(self.path)).path.split("/")[2:]
        if self.server.refusal is not None and parts != ["validate-yaml"]:
            self._send(b"{}", self.server.refusal, {"X-Error-Message": "no write access"})
            return
        match parts:
            case ["validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["repos", "create"]:
                sent = json.loads(body)
                repo_id = f"{sent['organization']}/{sent['name']}"
                status = 409 if repo_id in self.server.commits else 200
                if status == 200:
                    self.server.commit(repo_id, {".gitattributes": b""})
                    if sent.get("private") or sent.get("visibility") == "private":
                        self.server.private.add(repo_id)
                self._json({"url": f"{self.server.endpoint}/{repo_id}"}, status)
            case ["models", owner, name, "preupload", _]:
                # "regular": the content comes with the commit, no LFS and no Xet
                files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
                self._json({"files": files})
            case ["models", owner, name, "branch", branch]:
                branches = self.server.branches[f"{owner}/{name}"]
                status = 409 if branch in branches else 200
                branches.setdefault(branch, branches["main"])
                self._json({}, status)
            case ["models", owner, name, "commit", branch]:
                lines = [json.loads(line) for line in body.splitlines()]
                values = {
                    kind: [line["value"] for line in lines if line["key"] == kind] for kind in ("file", "deletedFile")
                }
                files = {f["path"]: base64.b64decode(f["content"]) for f in values["file"]}
                repo_id = f"{owner}/{name}"
                deleted = tuple(f["path"] for f in values["deletedFile"])
                commit_id = self.server.commit(repo_id, files, branch, deleted)
                url = f"{self.server.endpoint}/{repo_id}/commit/{commit_id}"
                self._json({"commitOid": commit_id, "commitUrl": url})
            case _:
                self._missing("EntryNotFound")

    def do_GET(self):
        if self.server.failure is not None:
            self._send(b"", self.server.failure)
            return
        match urlsplit(unquote(self.path)).path.split("/")[1:]:
            case ["api", "models", owner, name] | ["api", "models", owner, name, "revision", _] as parts:
                found = self._find(f"{owner}/{name}", parts[5] if len(parts) == 6 else "main")
                if found:
                    siblings = [{"rfilename": path} for path in found[1]]
                    self._json({"id": f"{owner}/{name}", "sha": found[0], "siblings": siblings})
            case ["api", "models", owner, name, "tree", revision, *_]:
                found = self._find(f"{owner}/{name}", revision)
                if found:
                    files = [
                        {"type": "file", "path": path, "size": len(data), "oid": "0"}
                        for path, data in found[1].items()
                    ]
                    self._json(files)
            case [owner, name, "resolve", revision, *path]:
                found = self._find(f"{owner}/{name}", revision)
                if found and "/".join(path) in found[1]:
                    self._send(found[1]["/".join(path)], headers={"X-Repo-Commit": found[0]})
                elif found:
                    self._missing("EntryNotFound", found[0])
            case _:
                self._missing("EntryNotFound")

    do_HEAD = do_GET

    def _find(self, repo_id, revision):
        """The commit that a branch or a commit id names, and its files; else the answer is 404."""
        commits = self.server.commits.get(repo_id)
        if commits is None:
            return self._missing("RepoNotFound")
        commit_id = self.server.branches[repo_id].get(revision, revision)
        return (commit_id, commits[commit_id]) if commit_id in commits else self._missing("RevisionNotFound")

    def _missing(self, code, commit_id=None):
        headers = {"X-Error-Code": code, "X-Error-Message": f"{code}: {self.path}"}
        self._send(b"", 404, headers | ({"X-Repo-Commit": commit_id} if commit_id else {}))

    def _json(self, value, status=200):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _send(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        """The tests' output is for the tests."""


@contextmanager
def run_hub():
    """A running [`HubServer`] that is gone afterwards."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
