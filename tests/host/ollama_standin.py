"""A stand-in for `ollama serve`: the real one is in no package registry.

It speaks the endpoints that labctl and LiteLLM use (`/`, `/api/version`, `/api/tags`, `/api/ps`,
`/api/chat`, `/api/generate`), for the models named in `~/.ollama/stand-in-models`, one a line. It
is started as `ollama serve` and listens where `OLLAMA_HOST` says, as the real one does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODELS_FILE = Path.home() / ".ollama" / "stand-in-models"


def _models() -> list[str]:
    return MODELS_FILE.read_text(encoding="utf-8").split() if MODELS_FILE.exists() else []


class Endpoints(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(200, b"Ollama is running", "text/plain")
        elif self.path == "/api/version":
            self._json({"version": "0.0.0-stand-in"})
        elif self.path == "/api/tags":
            self._json({"models": [{"name": name, "size": 1, "digest": "0"} for name in _models()]})
        elif self.path == "/api/ps":
            self._json({"models": []})
        else:
            self._json({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        model = body.get("model")
        if model not in _models():
            self._json({"error": f"model '{model}' not found"}, 404)
            return
        said = {
            "model": model,
            "created_at": datetime.now(UTC).isoformat(),
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 1,
            "eval_count": 1,
        }
        text = f"{model} says ok"
        if self.path == "/api/chat":
            said["message"] = {"role": "assistant", "content": text}
        elif self.path == "/api/generate":
            said["response"] = text
        else:
            self._json({"error": "not found"}, 404)
            return
        self._send(200, json.dumps(said).encode() + b"\n", "application/x-ndjson")

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    if sys.argv[1:] != ["serve"]:
        sys.exit("this stand-in only knows `ollama serve`")
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer((host, int(port)), Endpoints).serve_forever()


if __name__ == "__main__":
    main()
