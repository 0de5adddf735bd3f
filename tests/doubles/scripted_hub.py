"""A model hub in this process, as far as an upload needs one: repositories, upload modes, large files, commits.

It answers what the hub's client (`huggingface_hub`) reads, and keeps each repository's files as bytes.
"""

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
from typing import Any

TOKEN = "hf_right"


@dataclass
class Hub:
    """An address, and what was uploaded: files by repository, whether it is private, and the large files by sha256."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


@contextmanager
def scripted_hub(*, fails: int = 0) -> Iterator[Hub]:
    """A hub that runs inside the block; `fails` is the HTTP status with which it refuses every request, 0 for none."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fails:
                self.answer(fails, {"error": "Not now."})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "Invalid username or password."})
            elif self.path == "/api/repos/create":
                self.create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self.validate(json.loads(body)["content"])
            elif "/preupload/" in self.path:
                modes = [
                    {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                    for each in json.loads(body)["files"]
                ]
                self.answer(200, {"files": [{**each, "shouldIgnore": False} for each in modes]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**each, "actions": {"upload": {"href": f"{hub.address}/large/{each['oid']}", "header": {}}}}
                    for each in json.loads(body)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": objects})
            elif "/commit/" in self.path:
                self.commit(self.path.split("/")[3:5], [json.loads(line) for line in body.splitlines()])
            else:
                self.answer(404, {"error": f"no {self.path}"})

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
            hub.large[self.path.rpartition("/")[2]] = body
            self.answer(200, {})

        def validate(self, card: str) -> None:
            """As the hub: a card names its base as a hub id, or not at all."""
            base = re.search(r"^base_model: *(.*)$", card.split("---")[1], re.MULTILINE)
            if base and not re.fullmatch(r"[\w.-]+/[\w.-]+", base[1]):
                said = f'"base_model" with value "{base[1]}" is not valid. Use a model id from https://hf.co/models.'
                self.answer(400, {"errors": [{"message": said}], "warnings": []})
            else:
                self.answer(200, {"errors": [], "warnings": []})

        def create(self, asked: dict[str, Any]) -> None:
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if repo in hub.files:
                self.answer(409, {"error": "You already created this model repo", "url": f"{hub.address}/{repo}"})
                return
            hub.files[repo], hub.private[repo] = {}, asked.get("visibility") == "private" or bool(asked.get("private"))
            self.answer(200, {"url": f"{hub.address}/{repo}"})

        def commit(self, name: list[str], lines: list[dict[str, Any]]) -> None:
            repo = "/".join(name)
            for line in lines:
                if line["key"] == "file":
                    hub.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    hub.files[repo][line["value"]["path"]] = hub.large[line["value"]["oid"]]
            hub.commits += 1
            url = f"{hub.address}/{repo}/commit/1"
            self.answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": ""})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
