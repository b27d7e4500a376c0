"""A server with the protocols of Hugging Face and ModelScope, sufficient for their clients; and a proxy.

It can stop in the middle of a file, send wrong bytes, list wrong sizes, and refuse; it remembers what was
asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import re
import socket
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HF_LISTING = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
HF_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
MS_LISTING = re.compile(r"/api/v1/models/([^/]+/[^/]+)/repo/files")
MS_FILE = re.compile(r"/api/v1/models/([^/]+/[^/]+)/repo")
CDN_FILE = re.compile(r"/cdn/([^/]+/[^/]+)/(.+)")
BLOCK_BYTES = 1 << 16
DEADLINE_S = 60.0

LARGE = (".safetensors", ".pt", ".onnx", ".npy")
"""What is in large file storage."""


@dataclass
class Asked:
    """A request for a file's bytes, and the number of bytes sent."""

    path: str
    first_byte: int
    host: str
    authorization: str | None
    agent: str
    sent_bytes: int = 0


@dataclass
class Hub:
    """The repositories, the simulated failures, and the received requests."""

    repositories: dict[str, dict[str, bytes]]
    asked: list[Asked] = field(default_factory=list)
    stall_at: dict[str, int] = field(default_factory=dict)
    cut_once: dict[str, int] = field(default_factory=dict)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    spoiled: set[str] = field(default_factory=set)
    listed_sizes: dict[str, int] = field(default_factory=dict)
    refuse_with: int | None = None
    token: str | None = None
    cdn: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        hub = self

        class Bound(Handler):
            pass

        Bound.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # another name of the same server is another host: a token must not go there
        self.cdn = f"http://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def forget(self) -> None:
        """Clear the received requests."""
        self.asked.clear()

    def sent_bytes(self, name: str) -> int:
        """The number of bytes of a file that were sent since `forget`."""
        return sum(asked.sent_bytes for asked in self.asked if asked.path == name)

    def fetched(self) -> set[str]:
        """The files that were requested."""
        return {asked.path for asked in self.asked}

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        if match := CDN_FILE.fullmatch(path):
            return self._file(match[1], match[2])
        if self.hub.refuse_with:
            return self._answer(self.hub.refuse_with, {"error": "no"})
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._answer(401, {"error": "no token"})
        if match := HF_LISTING.fullmatch(path):
            return self._hugging_face_listing(match[1], match[2] or "main")
        if match := HF_FILE.fullmatch(path):
            assert match[2] == COMMIT
            return self._hugging_face_file(match[1], match[3])
        if match := MS_LISTING.fullmatch(path):
            return self._modelscope_listing(match[1])
        if match := MS_FILE.fullmatch(path):
            return self._file(match[1], query["FilePath"])
        return self._answer(404, {"error": "no such page"})

    def _hugging_face_listing(self, repository: str, revision: str) -> None:
        if repository not in self.hub.repositories or revision not in ("main", COMMIT):
            return self._answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        siblings: list[dict[str, Any]] = []
        for name, data in self.hub.repositories[repository].items():
            size = self.hub.listed_sizes.get(name, len(data))
            sibling = {"rfilename": name, "size": size, "blobId": git_name(data)}
            if name.endswith(LARGE):
                sibling["blobId"] = git_name(b"a pointer")
                sibling["lfs"] = {"sha256": sha256(data), "size": size, "pointerSize": 134}
            siblings.append(sibling)
        return self._answer(200, {"id": repository, "sha": COMMIT, "siblings": siblings})

    def _hugging_face_file(self, repository: str, name: str) -> None:
        data = self.hub.repositories[repository][name]
        if not name.endswith(LARGE):
            return self._file(repository, name)
        self.send_response(302)
        self.send_header("Location", f"{self.hub.cdn}/cdn/{repository}/{quote(name)}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-ETag", f'"{sha256(data)}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _modelscope_listing(self, repository: str) -> None:
        if repository not in self.hub.repositories:
            return self._answer(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        files: list[dict[str, Any]] = [{"Path": "CosyVoice-300M-25Hz", "Type": "tree", "Size": 0}]
        for name, data in self.hub.repositories[repository].items():
            size = self.hub.listed_sizes.get(name, len(data))
            files.append({"Path": name, "Type": "blob", "Size": size, "Sha256": sha256(data)})
        return self._answer(200, {"Code": 200, "Data": {"Files": files}, "Success": True})

    def _file(self, repository: str, name: str) -> None:
        """The file's bytes from an offset."""
        data = self.hub.repositories[repository][name]
        if name in self.hub.spoiled:
            data = bytes([data[0] ^ 1]) + data[1:]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(wanted[1]) if wanted else 0
        host = self.headers["Host"].partition(":")[0]
        asked = Asked(name, first, host, self.headers.get("Authorization"), self.headers["User-Agent"])
        self.hub.asked.append(asked)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("ETag", f'"{sha256(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        self._send(asked, data)

    def _send(self, asked: Asked, data: bytes) -> None:
        """Send everything, or stall at the configured byte."""
        name = asked.path
        stall_at = self.hub.stall_at.get(name)
        for start in range(asked.first_byte, len(data), BLOCK_BYTES):
            if stall_at is not None and start >= stall_at:
                self.hub.stalled.set()
                self.hub.go_on.wait(DEADLINE_S)
            if (cut_at := self.hub.cut_once.get(name)) is not None and start >= cut_at:
                del self.hub.cut_once[name]
                self.close_connection = True
                return
            block = data[start : start + BLOCK_BYTES]
            asked.sent_bytes += len(block)  # before the client can have it and go on
            try:
                self.wfile.write(block)
            except OSError:
                self.close_connection = True
                return

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A test's output is the test's."""


class Proxy:
    """A forward proxy that forwards every request to the hub, whatever its host."""

    def __init__(self, hub: Hub) -> None:
        self.hosts: list[str] = []
        proxy = self

        class Forward(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                proxy.hosts.append(parts.netloc)
                connection = http.client.HTTPConnection("127.0.0.1", hub.port)
                target = f"{parts.path}?{parts.query}" if parts.query else parts.path
                connection.request("GET", target, headers=dict(self.headers))
                answer = connection.getresponse()
                body = answer.read()
                connection.close()
                self.send_response(answer.status)
                for name, text in answer.getheaders():
                    if name.lower() != "connection":
                        self.send_header(name, text)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class SocksProxy:
    """A SOCKS 5 proxy without passwords that connects to the hub, whatever the host."""

    def __init__(self, hub: Hub) -> None:
        self.hosts: list[str] = []
        proxy = self

        class Connect(StreamRequestHandler):
            def handle(self) -> None:
                self.rfile.read(self.rfile.read(2)[1])
                self.wfile.write(b"\x05\x00")
                kind = self.rfile.read(4)[3]
                assert kind == 3, "the name is for the proxy to look up"
                proxy.hosts.append(self.rfile.read(self.rfile.read(1)[0]).decode())
                self.rfile.read(2)
                self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
                with socket.create_connection(("127.0.0.1", hub.port)) as there:
                    back = threading.Thread(target=_copy, args=(there, self.connection))
                    back.start()
                    _copy(self.connection, there)
                    back.join()

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Connect)
        self._server.daemon_threads = True
        self.url = f"socks5h://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the end."""
    with contextlib.suppress(OSError):
        while data := source.recv(BLOCK_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def safetensors(size_bytes: int, seed: int = 0) -> bytes:
    """A complete safetensors file with one tensor."""
    data = Random(seed).randbytes(size_bytes)
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + data


def array_file() -> bytes:
    """Two by three values in NumPy's format."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24)


def torch_file(text: str) -> bytes:
    """A file with the header of a PyTorch checkpoint."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", text)
    return file.getvalue()


def published(large_bytes: int) -> dict[str, dict[str, bytes]]:
    """The repositories as they are published, with tiny files; the size of Whisper's weights can be set."""
    linguistic = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
    whisper = {
        "README.md": b"# Whisper",
        "config.json": b"{}",
        "preprocessor_config.json": b'{"feature_size": 80}',
        "tokenizer.json": b'{"version": "1.0"}',
        "vocab.json": b'{"a": 1}',
        "model.safetensors": safetensors(large_bytes),
        "pytorch_model.bin": b"the same in another format",
        "flax_model.msgpack": b"and in another",
    }
    return {
        "stepfun-ai/Step-Audio-EditX": {
            "LICENSE": b"Apache",
            "config.json": b'{"model_type": "step1"}',
            "model.safetensors.index.json": b'{"weight_map": {"w": "model-00001.safetensors"}}',
            "model-00001.safetensors": safetensors(3000, 1),
            "tokenizer.model": b"words",
            "tokenizer_config.json": b"{}",
            "modeling_step1.py": b"raise SystemExit('never run')",
            "CosyVoice-300M-25Hz/flow.pt": torch_file("flow"),
            "CosyVoice-300M-25Hz/hift.pt": torch_file("hift"),
            "CosyVoice-300M-25Hz/campplus.onnx": b"\x0a\x08campplus",
            "CosyVoice-300M-25Hz/speech_tokenizer_v1.onnx": b"a copy that is not read",
        },
        "stepfun-ai/Step-Audio-Tokenizer": {
            "linguistic_tokenizer.npy": array_file(),
            "speech_tokenizer_v1.onnx": b"\x0a\x08semantic",
            f"{linguistic}/model.pt": torch_file("paraformer"),
            f"{linguistic}/am.mvn": b"mean and variance",
            f"{linguistic}/config.yaml": b"not read",
        },
        "openai/whisper-tiny": whisper,
        "openai-mirror/whisper-tiny": whisper,
    }
