"""SIGKILL real deploys at random moments: the next labctl finds them wholly old or wholly new.

Two real llama-servers under a real user manager; every tenth kill takes the whole host down. The
seed of a failing run is in its message: set LABCTL_KILL_SEED to play it again, LABCTL_KILLS to
play more.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

import pytest

from tests.host.demo_lab import MASTER_KEY
from tests.host.light_host import CHECKOUT, LightHost
from tests.host.tiny_gguf import write_tiny_model

KILLS = int(os.environ.get("LABCTL_KILLS", "50"))
SEED = int(os.environ.get("LABCTL_KILL_SEED", "20261123"))
EVERY_REBOOT = 10

LAB = """\
version: 1
services:
  alpha: {{kind: llamacpp-native, provider: alpha, port: 8080, model: ~/models/alpha.gguf,
          context: 512, slots: {alpha}, start_timeout: 60s}}
  beta: {{kind: llamacpp-native, provider: beta, port: 8081, model: ~/models/beta.gguf,
         context: 512, slots: {beta}, start_timeout: 60s}}
gateway: {{enabled: false}}
deploy: {{soak: 0.2s}}
"""
PROVIDERS = """\
providers:
  alpha: {type: llama_cpp, base_url: "http://127.0.0.1:8080", status: active, models: [alpha]}
  beta: {type: llama_cpp, base_url: "http://127.0.0.1:8081", status: active, models: [beta]}
"""
MAPPINGS = """\
exact_matches:
  alpha: {provider: alpha}
  beta: {provider: beta}
fallback_chains:
  alpha: {chain: [beta]}
  beta: {chain: []}
"""


def _write(host: LightHost, alpha: int, beta: int) -> None:
    host.write(".config/labctl/lab.yaml", LAB.format(alpha=alpha, beta=beta))
    host.write(".config/labctl/providers.yaml", PROVIDERS)
    host.write(".config/labctl/model-mappings.yaml", MAPPINGS)
    host.write(".config/labctl/secrets.env", f"LITELLM_MASTER_KEY={MASTER_KEY}\n", mode=0o600)


def whole(host: LightHost) -> tuple[int | None, list[str]]:
    """(current generation, every way in which the host is not wholly that generation)."""
    done = host.run(
        sys.executable,
        "-m",
        "tests.integration.whole",
        env={"PYTHONPATH": CHECKOUT, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    answer = json.loads(done.stdout)
    return answer["current"], answer["troubles"]


@pytest.fixture
def two_servers(host: LightHost) -> LightHost:
    for seed, name in enumerate(("alpha", "beta"), start=1):
        made = write_tiny_model(host.home.parent / f"{name}.gguf", name, seed)
        host.write(f"models/{name}.gguf", made.read_bytes())
        made.unlink()
    _write(host, 1, 1)
    return host


def test_a_deploy_killed_at_any_moment_is_recovered(two_servers: LightHost) -> None:
    host = two_servers
    chance = random.Random(SEED)
    host.labctl("deploy", check=True)
    began = time.monotonic()
    _write(host, 2, 2)
    host.labctl("deploy", check=True)
    usual_s = time.monotonic() - began
    before, troubles = whole(host)
    assert troubles == []
    cut = 0
    for turn in range(KILLS):
        _write(host, 1 + turn % 3, 1 + chance.randrange(3))
        moment_s = chance.uniform(0.05, usual_s * 1.1)
        deploy = host.spawn_labctl("deploy")
        time.sleep(moment_s)  # the moment is the experiment: there is no event to await
        if deploy.process.poll() is None:
            cut += 1
            _kill(host, reboot=turn % EVERY_REBOOT == EVERY_REBOOT - 1)
        deploy.wait(30)
        recovered = host.labctl("recover", timeout=60)
        current, troubles = whole(host)
        told = f"seed {SEED}, turn {turn}, killed after {moment_s:.3f} s: {recovered.stderr}"
        assert recovered.returncode == 0, told
        assert troubles == [], told
        assert current is not None and before is not None and current >= before, told
        again = host.labctl("recover")
        assert again.stdout.startswith("nothing to recover"), f"{told}: {again.stdout}"
        before = current
    assert cut >= KILLS * 0.6, f"only {cut} of {KILLS} deploys were cut: {usual_s:.1f} s each"


def _kill(host: LightHost, *, reboot: bool) -> None:
    if reboot:
        host.reboot()
        return
    # By name: the process that entered the host is only a shell around it.
    host.run("pkill", "-KILL", "-f", "agent.cli.main", check=False)
