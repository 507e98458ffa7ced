"""How long each verb takes, on a throw-away host with five real services. Run by hand or nightly.

    python tests/bench/verbs.py [--runs N]

Wall times vary with the machine, so each row also stands as a ratio to `labctl --version`, taken in
the same minute. Needs the environments that `./install.sh test` makes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.host.demo_lab import MASTER_KEY  # noqa: E402 - needs the path above
from tests.host.light_host import (  # noqa: E402
    CHECKOUT,
    LightHost,
    python_binds,
    snapshot_checkout,
)
from tests.integration.two_servers import write_models  # noqa: E402

SERVERS = ("one", "two", "three")
LAB = """\
version: 1
services:
  llamacpp-python: {{provider: python, port: 8000, model: ~/models/alpha.gguf, context: 512}}
{servers}
deploy: {{soak: 1s}}
"""
SERVER = (
    "  {name}: {{kind: llamacpp-native, provider: {name}, port: {port},"
    " model: ~/models/beta.gguf, context: 512, slots: {slots}}}"
)


def write_lab(host: LightHost, slots: int) -> None:
    """A gateway, llama-cpp-python and three llama-servers; `slots` changes one of them."""
    servers = [
        SERVER.format(name=name, port=8080 + i, slots=slots if i == 0 else 1)
        for i, name in enumerate(SERVERS)
    ]
    host.write(".config/labctl/lab.yaml", LAB.format(servers="\n".join(servers)))
    ports = {"python": 8000, **{name: 8080 + i for i, name in enumerate(SERVERS)}}
    providers = "".join(
        f'  {name}: {{type: llama_cpp, base_url: "http://127.0.0.1:{port}", status: active,'
        f" models: [model-{name}]}}\n"
        for name, port in ports.items()
    )
    host.write(".config/labctl/providers.yaml", f"providers:\n{providers}")
    matches = "".join(f"  model-{name}: {{provider: {name}}}\n" for name in ports)
    host.write(".config/labctl/model-mappings.yaml", f"exact_matches:\n{matches}")
    host.write(".config/labctl/secrets.env", f"LITELLM_MASTER_KEY={MASTER_KEY}\n", mode=0o600)


# Timed inside the host, so that entering it does not count.
TIMED = """\
import subprocess, sys, time
for _ in range(int(sys.argv[1])):
    began = time.monotonic()
    subprocess.run(["labctl", *sys.argv[2:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(time.monotonic() - began)
"""


class Bench:
    def __init__(self, host: LightHost, runs: int) -> None:
        self.host = host
        self.runs = runs
        self.rows: list[tuple[str, list[float]]] = []

    def verb(self, name: str, *words: str) -> None:
        done = self.host.run("python3", "-c", TIMED, str(self.runs), *words, timeout=300)
        self.rows.append((name, [float(line) for line in done.stdout.split()]))

    def outcomes(self, name: str, act: Callable[[int], tuple[str, ...]]) -> None:
        """Verbs that end with an outcome: the whole, and what is not the services' own time."""
        whole, own = [], []
        for run in range(self.runs):
            words = act(run)
            began = time.monotonic()
            done = self.host.labctl(*words, "--json", check=True)
            whole.append(time.monotonic() - began)
            last = json.loads(done.stdout.splitlines()[-1])
            own.append(whole[-1] - sum(last["seconds"].values()))
        self.rows += [(name, whole), (f"{name}, without apply and proof", own)]

    def table(self) -> str:
        base = statistics.median(self.rows[0][1])
        lines = ["| what | median | min | max | ratio |", "| --- | --- | --- | --- | --- |"]
        for name, times in self.rows:
            middle = statistics.median(times)
            low, high = min(times), max(times)
            lines.append(
                f"| {name} | {middle:.3f} s | {low:.3f} | {high:.3f} | {middle / base:.1f} |"
            )
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labctl"
    backends = Path(os.environ.get("LABCTL_TEST_BACKENDS") or cache / "backends")
    python = Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        checkout = snapshot_checkout(ROOT, Path(folder) / "checkout")
        binds = {checkout: CHECKOUT, **python_binds(python), backends.parent: str(backends.parent)}
        with LightHost(f"bench-{os.getpid()}", binds) as host:
            host.install_checkout(python, backends)
            sys.stdout.write(measure(Bench(host, runs)) + "\n")


def measure(bench: Bench) -> str:
    host = bench.host
    write_models(host)
    write_lab(host, 1)
    host.labctl("deploy", check=True, timeout=300)
    bench.verb("`labctl --version`", "--version")
    seed = f"{CHECKOUT}/tests/data/seed/v1.7.1.1-hotfixed"
    bench.verb("`labctl check`, the seed lab", "check", seed)
    bench.verb("`labctl check`, this lab", "check")
    bench.verb("`labctl status`, five services", "status")
    bench.verb("`labctl plan`, nothing changed", "plan")
    bench.verb("`labctl deploy`, nothing to do", "deploy")
    bench.verb("`labctl generations list`", "generations", "list")

    def change(run: int) -> tuple[str, ...]:
        write_lab(host, 2 + run % 2)
        return ("deploy",)

    bench.outcomes("changed deploy, one llama-server, 1 s soak", change)
    bench.outcomes("`labctl rollback`, one llama-server, 1 s soak", lambda _: ("rollback",))
    return bench.table()


if __name__ == "__main__":
    main()
