"""A small server with the Hub's interface for uploads, for the real `huggingface_hub` client on 127.0.0.1."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer(ThreadingHTTPServer):
    """Keeps what is committed in `files`; `token` may write.

    The next `failures` commits and `broken_uploads` weights are broken off; commits are answered by `status` if set.
    """

    def __init__(self, token: str = "hf_right"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.failures, self.broken_uploads = token, 0, 0
        self.status: int | None = None
        self.sent = 0  # weights that were sent whole
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.repositories: dict[str, bool] = {}  # id -> private
        self.sdks: dict[str, str | None] = {}  # id -> of a Space; None of a model
        self.commits = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_):
        pass

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self):
        if self.server.broken_uploads:
            self.server.broken_uploads -= 1
            self.rfile.read(1000)
            self.connection.close()
            return
        self.server.uploads[self.path.rpartition("/")[2]] = self.body()
        self.server.sent += 1
        self.answer({})

    def do_POST(self):
        body = self.body()
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            private = asked.get("private") or asked.get("visibility") == "private"
            self.server.repositories.setdefault(name, bool(private))
            self.server.sdks.setdefault(name, asked["sdk"] if asked.get("type") == "space" else None)
            return self.answer({"url": f"{self.server.url}/{name}", "name": name})
        if "/preupload/" in self.path:
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
                if o["oid"] not in self.server.uploads
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            if self.server.status is not None:
                return self.answer({"error": "out of order"}, self.server.status)
            if self.server.failures:
                self.server.failures -= 1
                self.connection.close()
                return None
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.uploads[value["oid"]]
            self.server.commits += 1
            name = "/".join(self.path.split("/")[3:5])
            url = f"{self.server.url}/{name}/commit/{'0' * 40}"
            return self.answer({"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})
        return self.answer({"error": f"unknown {self.path}"}, 404)

    def do_GET(self):
        self.answer({"error": f"unknown {self.path}"}, 404)
