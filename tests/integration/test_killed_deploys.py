"""SIGKILL real deploys at random moments: the next labctl finds them wholly old or wholly new.

Two real llama-servers under a real user manager; every tenth kill takes the whole host down. The
seed of a failing run is in its message: set LABCTL_KILL_SEED to play it again, LABCTL_KILLS to
play more.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.host.light_host import LightHost
from tests.integration.two_servers import whole, write_lab, write_models

KILLS = int(os.environ.get("LABCTL_KILLS", "50"))
SEED = int(os.environ.get("LABCTL_KILL_SEED", "20261123"))
EVERY_REBOOT = 10


@pytest.fixture
def two_servers(host: LightHost) -> LightHost:
    write_models(host)
    write_lab(host)
    return host


def test_a_deploy_killed_at_any_moment_is_recovered(two_servers: LightHost) -> None:
    host = two_servers
    chance = random.Random(SEED)
    host.labctl("deploy", check=True)
    began = time.monotonic()
    write_lab(host, alpha=2, beta=2)
    host.labctl("deploy", check=True)
    usual_s = time.monotonic() - began
    before, troubles = whole(host)
    assert troubles == []
    cut = 0
    for turn in range(3 * KILLS):
        if cut == KILLS:
            break
        changed = f", environment: {{TURN: '{turn}'}}"  # both restart, whatever serves now
        write_lab(host, alpha_more=changed, beta_more=changed)
        moment_s = chance.uniform(0.2, usual_s)
        deploy = host.spawn_labctl("deploy")
        time.sleep(moment_s)  # the moment is the experiment: there is no event to await
        if deploy.process.poll() is None:
            cut += 1
            _kill(host, reboot=cut % EVERY_REBOOT == 0)
        deploy.wait(30)
        recovered = host.labctl("recover", timeout=60)
        current, troubles = whole(host)
        told = f"seed {SEED}, turn {turn}, killed after {moment_s:.3f} s: {recovered.stderr}"
        assert recovered.returncode == 0, told
        assert troubles == [], told
        assert current is not None and before is not None and current >= before, told
        before = current
    assert cut == KILLS, f"only {cut} deploys were cut: {usual_s:.1f} s each"


def _kill(host: LightHost, *, reboot: bool) -> None:
    if reboot:
        host.reboot()
        return
    # By name: the process that entered the host is only a shell around it.
    host.run("pkill", "-KILL", "-f", "agent.cli.entry", check=False)
