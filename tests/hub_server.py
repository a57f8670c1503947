"""A stand-in for the Hugging Face hub on the loopback interface, with one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

COMMIT = "1" * 40
REPOSITORY = "tiny/one"


@contextmanager
def serve_repository(folder: Path, *, kind: str = "models") -> Iterator[str]:
    """Serve the files of a folder as `REPOSITORY` at `COMMIT`; gives the address.

    Args:
        folder: A flat folder.
        kind: `models` or `datasets`.
    """
    home = f"/{REPOSITORY}" if kind == "models" else f"/{kind}/{REPOSITORY}"

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_POST(self) -> None:
            """Answer `paths-info`: what is known of these files."""
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            wanted = [entry for entry in self._entries() if entry["path"] in form["paths"]]
            self._send(json.dumps(wanted).encode(), with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *arguments: object) -> None:
            """Keep test output clean."""

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            api = f"/api/{kind}/{REPOSITORY}"
            files = self._files()
            if path == api or path.startswith(f"{api}/revision/"):
                revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
                if revision not in ("main", COMMIT):
                    self._refuse("RevisionNotFound")
                else:
                    siblings = [{"rfilename": name} for name in files]
                    document = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
                    self._send(json.dumps(document).encode(), with_body)
            elif path == f"{api}/tree/{COMMIT}":
                self._send(json.dumps(self._entries()).encode(), with_body)
            elif path.startswith(f"{api}/tree/{COMMIT}/"):
                self._refuse("EntryNotFound")
            elif path.startswith((f"{home}/resolve/{COMMIT}/", f"{home}/resolve/main/")):
                content = files.get(path.rpartition("/")[2])
                if content is None:
                    self._refuse("EntryNotFound")
                else:
                    self._send(content, with_body)
            else:
                self._refuse("RepoNotFound")

        def _files(self) -> dict[str, bytes]:
            return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

        def _entries(self) -> list[dict[str, object]]:
            return [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in self._files().items()
            ]

        def _send(self, content: bytes, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{_etag(content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def _refuse(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
