"""HttpProber against real sockets: well-behaved, slow, broken and hostile ones."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.host.http import NoAnswer, ask, reachable
from agent.host.probes import HttpProber, completion_request, scrubbed
from agent.model.generation import CompletionSpec, ServiceSpec
from agent.model.lab import ServiceKind
from agent.model.verdict import Health, ProbeKind, Sample

KEY = 'sk-lab-"secret"'
prober = HttpProber()


class Secrets:
    """A secrets file with one key."""

    def __init__(self, value: str | None = KEY) -> None:
        self._value = value

    def get(self, name: str) -> str | None:
        return self._value if name == "LITELLM_MASTER_KEY" else None


class Endpoint(ThreadingHTTPServer):
    """Answers each path as told, and records what it was asked."""

    daemon_threads = True

    def __init__(self, answers: dict[str, tuple[int, object]], headers: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Reply)
        self.answers, self.headers = answers, headers
        self.asked: list[tuple[str, str, str | None, bytes]] = []


class Reply(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        key = self.headers.get("Authorization")
        self.server.asked.append((self.command, self.path, key, self.rfile.read(length)))
        status, content = self.server.answers.get(self.path, (404, {"detail": "Not Found"}))
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the record is `asked`."""


@contextlib.contextmanager
def endpoint(
    answers: dict[str, tuple[int, object]], headers: dict[str, str] | None = None
) -> Iterator[Endpoint]:
    with Endpoint(answers, headers or {}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def raw(speak: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """A server that does to its one client what `speak` does; gives its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(10)

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    client.settimeout(10)
                    speak(client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(15)


def service(kind: ServiceKind | None, port: int | None, **more: object) -> ServiceSpec:
    spec = ServiceSpec("x", "x.service", kind, port=port, required=False)
    for name, value in more.items():
        object.__setattr__(spec, name, value)
    return spec


def gateway(port: int) -> ServiceSpec:
    return service(ServiceKind.LITELLM, port, api_key_variable="LITELLM_MASTER_KEY")


# -- the cheap probe -----------------------------------------------------------------------

CHEAP: list[tuple[ServiceKind, str, object]] = [
    (ServiceKind.LITELLM, "/health/readiness", {"status": "healthy", "db": "Not connected"}),
    (ServiceKind.OLLAMA, "/api/version", {"version": "0.33.0"}),
    (ServiceKind.LLAMACPP_NATIVE, "/health", {"status": "ok"}),
    (ServiceKind.LLAMACPP_PYTHON, "/openapi.json", {"openapi": "3.1.0"}),
    (ServiceKind.VLLM, "/health", b""),
]


@pytest.mark.parametrize(("kind", "path", "body"), CHEAP)
def test_each_kind_has_one_harmless_question(kind: ServiceKind, path: str, body: object) -> None:
    with endpoint({path: (200, body)}) as server:
        sample = prober.health(service(kind, server.server_port), 5)
    assert (sample.health, sample.probe, sample.subject) == (Health.HEALTHY, ProbeKind.HEALTH, "x")
    assert sample.ttfb_ms is not None
    assert 0 < sample.ttfb_ms < 5000
    assert not sample.required
    assert [(verb, asked, key) for verb, asked, key, _ in server.asked] == [("GET", path, None)]


def test_a_loading_server_is_not_healthy_and_says_why() -> None:
    loading = {"error": {"message": "Loading model", "code": 503}}
    with endpoint({"/health": (503, loading)}) as server:
        sample = prober.health(service(ServiceKind.LLAMACPP_NATIVE, server.server_port), 5)
    assert (sample.health, sample.detail) == (Health.UNHEALTHY, "loading the model (HTTP 503)")


@pytest.mark.parametrize("kind", [kind for kind, _, body in CHEAP if body])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_another_program_on_the_port_is_not_the_service(kind: ServiceKind, body: bytes) -> None:
    answers: dict[str, tuple[int, object]] = {path: (200, body) for _, path, _ in CHEAP}
    with endpoint(answers) as server:
        sample = prober.health(service(kind, server.server_port), 5)
    assert sample.health is Health.UNHEALTHY
    assert f"not {kind}" in sample.detail


def test_a_redirect_is_not_followed() -> None:
    with endpoint({}, {"Location": "http://127.0.0.1:1/"}) as server:
        server.answers["/health"] = (302, b"")
        sample = prober.health(service(ServiceKind.VLLM, server.server_port), 5)
    assert (sample.health, sample.detail) == (Health.UNHEALTHY, "HTTP 302")
    assert len(server.asked) == 1


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with endpoint({"/health": (200, b"")}) as server:
        assert prober.health(service(ServiceKind.VLLM, server.server_port), 5).good


def test_a_closed_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sample = prober.health(service(ServiceKind.OLLAMA, port), 5)
    assert sample.detail == f"nothing listens on 127.0.0.1:{port}"
    assert sample.health is Health.UNHEALTHY
    assert prober.health(service(ServiceKind.OLLAMA, None), 5).detail == "no port is known for it"


def trickle(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(200):  # each byte comes well within the timeout, the whole never does
        client.sendall(f"X-{number}: slow\r\n".encode())
        time.sleep(0.05)


def trickle_body(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(200):
        client.sendall(b" ")
        time.sleep(0.05)


def silent(client: socket.socket) -> None:
    while client.recv(65536):  # until the probe gives up
        pass


@pytest.mark.parametrize("speak", [trickle, trickle_body, silent])
def test_the_deadline_covers_the_whole_request(speak: Callable[[socket.socket], None]) -> None:
    with raw(speak) as port:
        started = time.monotonic()
        sample = prober.health(service(ServiceKind.OLLAMA, port), 0.4)
        took_s = time.monotonic() - started
    assert sample.health is Health.TIMED_OUT
    assert "within 0.4 s" in sample.detail
    assert took_s < 2


SPOKEN: list[tuple[bytes, str]] = [
    (b"", "closed without an answer"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
    (b"\x00\xff" * 5000, "does not speak HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "was cut"),
    (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500, "does not speak HTTP"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "was cut"),
    (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (9 << 20), "larger than"),
]


@pytest.mark.parametrize(("said", "detail"), SPOKEN)
def test_garbage_is_a_sample_and_never_an_exception(said: bytes, detail: str) -> None:
    def speak(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(said)

    with raw(speak) as port:
        sample = prober.health(service(ServiceKind.OLLAMA, port), 5)
    assert sample.health is Health.UNHEALTHY
    assert detail in sample.detail


def test_a_foreign_unit_is_asked_whether_its_ports_accept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert prober.health(service(None, None, listens=(port,)), 5).good
    assert not prober.health(service(None, None, listens=(port,)), 5).good
    assert prober.health(service(None, None), 5).health is Health.UNVERIFIABLE


def test_several_services_are_probed_side_by_side() -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(raw(silent)) for _ in range(5)]
        started = time.monotonic()
        specs = [service(ServiceKind.OLLAMA, port) for port in ports]
        samples = prober.health_all(specs, 0.5)
        took_s = time.monotonic() - started
    assert [sample.health for sample in samples] == [Health.TIMED_OUT] * 5
    assert took_s < 2
    assert prober.health_all([], 1) == ()


@pytest.mark.parametrize(
    ("listens", "asked"), [("0.0.0.0", "127.0.0.1"), ("[::]", "::1"), ("::1", "::1"), ("h", "h")]
)
def test_a_wildcard_address_is_asked_on_loopback(listens: str, asked: str) -> None:
    assert reachable(listens) == asked


def test_ipv6_addresses_are_asked_as_they_are_written() -> None:
    def speak(client: socket.socket) -> None:
        asked.append(client.recv(65536))
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    asked: list[bytes] = []
    with raw(speak, "::1") as port:
        assert prober.health(service(ServiceKind.VLLM, port, host="[::1]"), 5).good
    assert f"Host: [::1]:{port}".encode() in asked[0]


# -- model lists ---------------------------------------------------------------------------

LISTS: list[tuple[ServiceKind, object, tuple[str, ...], str]] = [
    (ServiceKind.LITELLM, {"data": [{"id": "a"}, {"id": "b"}]}, ("a", "b"), ""),
    (ServiceKind.LITELLM, {"data": []}, ("a", "b"), "lacks a, b; it holds no model at all"),
    (ServiceKind.VLLM, {"data": [{"id": "a:latest"}]}, ("a",), "lacks a; it holds a:latest"),
    (ServiceKind.OLLAMA, {"models": [{"name": "a:latest"}]}, ("a",), ""),
    (ServiceKind.OLLAMA, {"models": [{"name": "a:7b"}]}, ("a",), "lacks a; it holds a:7b: `ollama"),
    (ServiceKind.OLLAMA, {"models": [{"name": "r/a"}]}, ("r/a:latest",), ""),
    (ServiceKind.LLAMACPP_NATIVE, {"data": [{"id": "f", "aliases": ["a"]}]}, ("a",), ""),
    (ServiceKind.LLAMACPP_PYTHON, {"data": [{"id": "a"}, 7, {"id": 7}]}, ("a",), ""),
    (ServiceKind.LITELLM, {"data": {"id": "a"}}, ("a",), "not one"),
    (ServiceKind.LITELLM, ["a"], ("a",), "not one"),
]


@pytest.mark.parametrize(("kind", "body", "serves", "complaint"), LISTS)
def test_model_lists_are_judged_by_name(
    kind: ServiceKind, body: object, serves: tuple[str, ...], complaint: str
) -> None:
    path = "/api/tags" if kind is ServiceKind.OLLAMA else "/v1/models"
    with endpoint({path: (200, body)}) as server:
        spec = service(kind, server.server_port, serves=serves)
        sample = prober.models(spec, Secrets(), 5)
    assert sample.good is (complaint == "")
    assert complaint in sample.detail


def test_the_key_is_sent_where_one_is_demanded() -> None:
    answers: dict[str, tuple[int, object]] = {"/v1/models": (200, {"data": [{"id": "a"}]})}
    with endpoint(answers) as server:
        sample = prober.models(gateway(server.server_port), Secrets(), 5)
        prober.models(service(ServiceKind.VLLM, server.server_port), Secrets(), 5)
    assert sample.models == ("a",)
    assert [key for _, _, key, _ in server.asked] == [f"Bearer {KEY}", None]
    none = prober.models(gateway(server.server_port), Secrets(None), 5)
    assert (none.health, none.detail) == (
        Health.UNHEALTHY,
        "secrets.env sets no LITELLM_MASTER_KEY",
    )


def test_a_wrong_key_is_called_one() -> None:
    refusal = {"error": {"message": "No connected db.", "code": "400"}}
    with endpoint({"/v1/models": (400, refusal)}) as server:
        sample = prober.models(gateway(server.server_port), Secrets(), 5)
    assert sample.detail == "HTTP 400: the key is not accepted (No connected db.)"


# -- completions ---------------------------------------------------------------------------

SPEC = CompletionSpec(group="chat", service="ollama", model="qwen")
DONE: object = {"choices": [{"text": "ok"}]}


def complete(
    status: int, body: object, headers: dict[str, str] | None = None, spec: CompletionSpec = SPEC
) -> tuple[Sample, tuple[str, str, str | None, bytes]]:
    path, _ = completion_request(spec, "")
    with endpoint({path: (status, body)}, headers) as server:
        sample = prober.completion(gateway(server.server_port), spec, Secrets(), 5)
    return sample, server.asked[0]


def test_a_completion_asks_one_group_alone_and_past_the_cache() -> None:
    sample, (verb, path, key, body) = complete(200, DONE, {"x-litellm-model-group": "chat"})
    assert (sample.good, sample.subject) == (True, "chat")
    assert (verb, path, key) == ("POST", "/v1/completions", f"Bearer {KEY}")
    asked = json.loads(body)
    assert asked["model"] == "chat"
    assert asked["disable_fallbacks"] is True
    assert asked["cache"] == {"no-cache": True}
    assert completion_request(SPEC, "1") != completion_request(SPEC, "2")


def test_an_answer_of_another_group_proves_nothing() -> None:
    sample, _ = complete(200, DONE, {"x-litellm-model-group": "cloud"})
    assert (sample.good, sample.detail) == (False, "cloud answered in the place of chat")
    sample, _ = complete(200, DONE, {"x-litellm-cache-key": "abc"})
    assert not sample.good


@pytest.mark.parametrize("body", [b"", {}, {"choices": []}, {"choices": ["x"]}, {"choices": [{}]}])
def test_a_200_without_a_choice_is_no_completion(body: object) -> None:
    sample, _ = complete(200, body)
    assert (sample.good, "no completion" in sample.detail) == (False, True)


def test_embeddings_have_their_own_request() -> None:
    spec = CompletionSpec("embed", "ollama", "nomic", embedding=True)
    sample, (_, path, _, _) = complete(200, {"data": [{"embedding": [0.5]}]}, spec=spec)
    assert (sample.good, path) == (True, "/v1/embeddings")
    for body in ({"data": [{"embedding": []}]}, {"data": ["x"]}, DONE):
        assert not complete(200, body, spec=spec)[0].good


def test_the_gateways_own_words_are_shown_and_never_a_key() -> None:
    error = {"error": {"message": f"no backend\x1b[31m\nfor {KEY} at all" + "." * 999}}
    sample, _ = complete(500, error)
    assert sample.detail.startswith("HTTP 500: no backend [31m for *** at all...")
    assert len(sample.detail) <= 400


def test_a_key_that_is_cut_by_the_limit_is_not_shown_in_part() -> None:
    sample, _ = complete(500, {"error": {"message": "." * 380 + KEY}})
    assert "sk-" not in sample.detail
    sample, _ = complete(500, json.dumps({"broken": KEY}).encode() + b"}")
    assert "secret" not in sample.detail


@pytest.mark.parametrize("key", ["line\nbreak", "nul\0", "esc\x1b"])
def test_a_key_that_no_header_can_carry_is_not_shown(key: str) -> None:
    with endpoint({}) as server:
        sample = prober.completion(gateway(server.server_port), SPEC, Secrets(key), 5)
        with pytest.raises(NoAnswer) as caught:
            ask("127.0.0.1", server.server_port, "/", timeout_s=5, key=key)
    assert sample.detail == "the key holds characters that no HTTP header may carry"
    assert "line" not in repr(caught.value.__context__)


def test_scrubbing_knows_the_json_spelling() -> None:
    assert scrubbed(f"a {json.dumps(KEY)} b {KEY}", [KEY, None, ""]) == 'a "***" b ***'
