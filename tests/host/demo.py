"""`./install.sh demo`: the main job on real backends, in a host that is thrown away after.

Each act runs one command as a user types it, and says what it must end with; the demo fails at
the first one that ends otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.host.demo_lab import ask, write_lab, write_models  # noqa: E402 - needs the path above
from tests.host.light_host import (  # noqa: E402
    CHECKOUT,
    HostUnavailable,
    LightHost,
    python_binds,
    snapshot_checkout,
)


class Unexpected(Exception):
    """An act ended otherwise than it must."""


class Demo:
    """The acts, their narration and their times in seconds."""

    def __init__(self, host: LightHost) -> None:
        self.host = host
        self.times: list[tuple[str, float]] = []

    def act(self, title: str, *command: str, ends: int = 0) -> None:
        """Run one command of the user, its output straight to the reader."""
        say(f"\n== {title}\n$ {' '.join(command)}")
        began = time.monotonic()
        env = {name: os.environ[name] for name in ("NO_COLOR", "COLUMNS") if name in os.environ}
        status = subprocess.call(self.host.command(*command, env=env), stdin=subprocess.DEVNULL)
        took = time.monotonic() - began
        self.times.append((" ".join(command) + f" → {status}", took))
        say(f"[exit status {status}, {took:.1f} s]")
        if status != ends:
            raise Unexpected(f"`{' '.join(command)}` ended with {status} instead of {ends}")

    def answer(self, model: str, port: int) -> None:
        """Complete through the gateway and insist on the backend that must answer."""
        began = time.monotonic()
        base, text = ask(self.host, model)
        took = time.monotonic() - began
        self.times.append((f"completion by {model}", took))
        say(f"   {model} answers through the gateway, from {base}: “{text}” ({took:.2f} s)")
        if f":{port}/" not in base or not text:
            raise Unexpected(f"{model} was answered by {base}, not by port {port}")

    def both_answer(self) -> None:
        self.answer("alpha", 8000)
        self.answer("beta", 8080)

    def play(self) -> None:
        """The whole story: deploy, refuse, roll back by itself, roll back by hand."""
        write_models(self.host)
        write_lab(self.host)
        self.act("A lab: two llama.cpp servers behind one gateway", "labctl", "check")
        self.act("Deploy it: real LiteLLM, real servers, proved", "labctl", "deploy")
        self.both_answer()
        self.act("The same again touches nothing", "labctl", "deploy")

        write_lab(self.host, fallback="gamma")
        title = "A chain that names a model that does not exist is refused"
        self.act(title, "labctl", "deploy", ends=78)
        self.both_answer()

        write_lab(self.host, native_model="damaged")
        title = "A model file that is cut off in the middle is refused, with the byte"
        self.act(title, "labctl", "deploy", ends=78)

        write_lab(self.host, native_args="--no-such-flag")
        title = "What fails only when it is started: the last good state comes back"
        self.act(title, "labctl", "deploy", ends=10)
        self.both_answer()

        write_lab(self.host, slots=4)
        self.act("A good change", "labctl", "deploy")
        self.act("Regretted: back by hand", "labctl", "rollback")
        self.both_answer()
        self.act("What is known of each generation", "labctl", "generations", "list")
        self.act("What serves now", "labctl", "status")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def timed(times: list[tuple[str, float]], what: str, work: Callable[[], object]) -> None:
    began = time.monotonic()
    work()
    times.append((what, time.monotonic() - began))


def run(backends: Path) -> None:
    """Boot the host, play, and tell the times; the host is gone afterwards, whatever happened."""
    LightHost.require()
    python = Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="labctl-demo-") as scratch:
        Path(scratch).chmod(0o755)
        checkout = snapshot_checkout(ROOT, Path(scratch) / "checkout")
        binds = {checkout: CHECKOUT, **python_binds(python), backends.parent: str(backends.parent)}
        host = LightHost(f"demo-{os.getpid()}", binds)
        demo = Demo(host)
        say("== A private user manager: its own processes, network, files; nothing of yours")
        try:
            timed(demo.times, "boot of the private user manager", host.__enter__)
            host.install_checkout(python, backends)
            demo.play()
        finally:
            timed(demo.times, "taking it down", lambda: host.__exit__(None, None, None))
        say("\n== How long it took")
        for what, seconds in demo.times:
            say(f"{seconds:7.2f} s  {what}")


def main() -> int:
    """0 when every act ended as it must."""
    backends = os.environ.get("LABCTL_TEST_BACKENDS")
    if backends is None:
        say("run it as ./install.sh demo, which makes the backends that it needs")
        return 64
    try:
        run(Path(backends))
    except (HostUnavailable, Unexpected, AssertionError) as problem:
        say(f"\ndemo FAILED: {problem}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; the private host is gone")
        return 130
    say("\ndemo passed: everything ended as it must, and nothing of it stays")
    return 0


if __name__ == "__main__":
    sys.exit(main())
