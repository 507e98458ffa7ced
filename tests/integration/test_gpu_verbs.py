"""`labctl gpu` on the NVML double, and `labctl model` with real servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.host.light_host import LightHost
from tests.host.nvml_double import (
    LIBRARY,
    DeviceState,
    NvmlState,
    ProcessState,
    build,
    environment,
    without_nvml,
)
from tests.host.tiny_gguf import write_tiny_model
from tests.integration.two_servers import LAB, STATE, assert_whole, pids, write_lab, write_models

ROOT = Path(__file__).resolve().parents[2]
A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"
Labctl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def labctl(tmp_path: Path, library: Path) -> Labctl:
    """Run labctl with this state of the double; `state=None` is a host without NVML."""

    def run(*arguments: str, state: NvmlState | None) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "nvml.state"
        if state is not None:
            state.write(path)
        folder = without_nvml(tmp_path / "hidden") if state is None else library
        return subprocess.run(
            [sys.executable, "-m", "agent", *arguments],
            env={
                **environment(folder, path),
                "HOME": str(tmp_path),
                "XDG_RUNTIME_DIR": str(tmp_path / "run"),
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_tiny_model(tmp_path / "tiny.gguf"))


# --- labctl gpu ---------------------------------------------------------------------------------


def test_a_host_without_a_gpu_is_a_normal_host(labctl: Labctl) -> None:
    done = labctl("gpu", state=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert "models run on the CPU" in done.stdout
    read = json.loads(labctl("gpu", "--json", state=None).stdout)
    assert (read["healthy"], read["gpus"], read["driver"]) == (True, [], None)


def test_devices_and_who_uses_them(labctl: Labctl) -> None:
    gpus = [DeviceState(A, compute=[ProcessState(os.getpid(), 900)]), DeviceState(B, free=96)]
    done = labctl("gpu", state=NvmlState(gpus=gpus))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["driver", "570.86.15"] in lines
    assert any(words[:1] == ["1"] and words[-1] == B and "96" in words for words in lines)
    assert any(words[:4] == ["0", "900", "MiB", str(os.getpid())] for words in lines)


def test_a_gpu_in_trouble_is_told_with_its_remedy(labctl: Labctl) -> None:
    state = NvmlState(gpus=[DeviceState(A), DeviceState(B, error=16)])
    done = labctl("gpu", state=state)
    assert done.returncode == 3
    assert "error: cannot reach GPU 1: GPU requires restart\n  remedy: " in done.stdout
    read = json.loads(labctl("gpu", "--json", state=state).stdout)
    assert [(t["kind"], t["severity"]) for t in read["troubles"] if t["severity"] == "error"] == [
        ("reset required", "error")
    ]


def test_an_unknown_figure_is_unknown_and_no_zero(labctl: Labctl) -> None:
    gpu = DeviceState(A, total=None, free=None, temperature=None, utilisation=None)
    gpu.compute = [ProcessState(os.getpid(), None)]
    done = labctl("gpu", state=NvmlState(gpus=[gpu]))
    assert done.stdout.count("unknown") == 5  # four of the GPU, one of the process
    read = json.loads(labctl("gpu", "--json", state=NvmlState(gpus=[gpu])).stdout)
    assert read["gpus"][0]["free_mib"] is None
    assert read["processes"][0]["used_mib"] is None


# --- labctl gpu plan ----------------------------------------------------------------------------


def test_what_fits_with_the_whole_budget(labctl: Labctl, tiny: str) -> None:
    done = labctl(
        "gpu", "plan", tiny, "--ctx", "4096", "--json", state=NvmlState(gpus=[DeviceState(A)])
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"]
    placed = plan["placement"]
    assert (placed["layers"], placed["of"], placed["gpus"]) == (5, 5, [A])
    (need,) = placed["needs"]
    # 4 layers x 4096 cells x (K + V: 32 elements of 2 bytes each)
    assert need["kv_bytes"] == 4 * 4096 * (32 + 32) * 2
    assert placed["why"].startswith("5/5 on GPU 0")
    assert plan["ledgers"][0]["left_mib"] == 24000 - 256


def test_the_cache_type_counts(labctl: Labctl, tiny: str) -> None:
    def kv_bytes(*more: str) -> int:
        done = labctl(
            *("gpu", "plan", tiny, "--json", *more), state=NvmlState(gpus=[DeviceState(A)])
        )
        size = json.loads(done.stdout)["placement"]["needs"][0]["kv_bytes"]
        assert isinstance(size, int)
        return size

    assert kv_bytes("--cache-type-k", "q8_0", "--cache-type-v", "q8_0") * 64 == kv_bytes() * 34


def test_a_number_that_does_not_fit_is_refused_with_the_sum(labctl: Labctl, tiny: str) -> None:
    state = NvmlState(gpus=[DeviceState(A, free=300)])
    done = labctl("gpu", "plan", tiny, "--layers", "5", state=state)
    assert done.returncode == 78
    assert "does not fit: " in done.stdout
    assert "+300 MiB measured free (NVML), -256 MiB margin" in done.stdout


def test_a_plan_without_a_gpu_says_cpu_and_what_all_would_take(labctl: Labctl, tiny: str) -> None:
    done = labctl("gpu", "plan", tiny, state=None)
    assert done.returncode == 0, done.stderr
    assert "0/5: no GPU, all on the CPU" in done.stdout
    assert "all 5 layers on one GPU would take" in done.stdout


def test_a_plan_names_what_it_was_not_given(labctl: Labctl, tiny: str, tmp_path: Path) -> None:
    done = labctl("gpu", "plan", tiny, "--cache-type-k", "q8", state=None)
    assert done.returncode == 64
    assert "did you mean q8_0?" in done.stderr
    assert labctl("gpu", "plan", str(tmp_path / "none.gguf"), state=None).returncode == 1
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    damaged = labctl("gpu", "plan", str(tmp_path / "bad.gguf"), state=None)
    assert damaged.returncode != 0
    assert "Traceback" not in damaged.stderr


# --- labctl model -------------------------------------------------------------------------------

CATALOGUE = """\
models:
  - alias: better
    filename: better.gguf
    storage_dir: Better-F32
    context_length: 2048
    recommended_gpu_layers: 40
  - alias: gone
    filename: gone.gguf
"""


@pytest.fixture
def served(host: LightHost) -> LightHost:
    """Two servers; alpha's model is a link, beta's is named by lab.yaml."""
    write_models(host)
    for name, seed in (("better", 7), ("other", 8)):
        made = write_tiny_model(host.home.parent / f"{name}.gguf", name, seed)
        folder = "models/Better-F32" if name == "better" else "models"
        host.write(f"{folder}/{name}.gguf", made.read_bytes())
        made.unlink()
    broken = (host.home / "models/other.gguf").read_bytes()
    # A header that is sound, of a model that no server can run.
    host.write("models/broken.gguf", broken.replace(b"blk.0.attn_q.w", b"blk.0.attn_z.w"))
    host.run("mv", "models/alpha.gguf", "models/first.gguf")
    host.run("ln", "-s", "first.gguf", "models/alpha.gguf")
    write_lab(host)
    host.write(f"{LAB}/llamacpp-models.yaml", CATALOGUE)
    host.labctl("deploy", check=True)
    return host


def running_model(host: LightHost, service: str) -> str:
    """The file that the service's process was started with."""
    environ = host.run("cat", f"/proc/{pids(host)[service]}/environ").stdout
    found = dict(line.partition("=")[::2] for line in environ.split("\0") if "=" in line)
    return found["LLAMA_ARG_MODEL"].rpartition("/models/")[2]


def test_the_models_of_a_lab(served: LightHost) -> None:
    done = served.labctl("model", "list", check=True)
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert list(rows) == [
        "better",
        "gone",
        *(f"{n}.gguf" for n in ("beta", "broken", "first", "other")),
    ]
    assert rows["first.gguf"].split()[3] == "5"
    assert "alpha through alpha.gguf" in rows["first.gguf"]
    assert "gone.gguf is not here" in rows["gone"]
    assert "llamacpp-models.yaml:6:29: " in done.stderr
    assert "is 40, but its file has 5 layers" in done.stderr
    listed = json.loads(served.labctl("model", "list", "--json", check=True).stdout)
    assert [m["used_by"] for m in listed["models"] if m["name"] == "beta.gguf"] == [["beta"]]


def test_processes_on_a_gpu_are_told_by_service(served: LightHost, library: Path) -> None:
    """By PID, control group, unit: what NVML says of a PID becomes a service's."""
    served.copy(library / LIBRARY, f"nvml/{LIBRARY}")
    running = pids(served)
    gpu = DeviceState(A, compute=[ProcessState(running["beta"], 900), ProcessState(1, 33)])
    state = NvmlState(gpus=[gpu]).write(library / "served.state")
    served.copy(state, "nvml/state")
    inside = Path("/home/lab/nvml")
    env = {"LD_LIBRARY_PATH": str(inside), "LABCTL_NVML_STATE": str(inside / "state")}
    seen = json.loads(served.labctl("gpu", "--json", env=env, check=True).stdout)
    assert [(p["service"], p["unit"], p["used_mib"]) for p in seen["processes"]][1:] == [
        ("beta", "beta.service", 900)
    ]
    assert seen["processes"][0]["service"] is None
    assert [row["service"] for row in seen["services"]] == ["alpha", "beta"]
    assert "beta (beta.service)" in served.labctl("gpu", env=env).stdout


def test_a_link_is_switched_by_a_deploy_and_goes_back_with_a_rollback(served: LightHost) -> None:
    lab_before = served.read(f"{LAB}/lab.yaml")
    used = served.labctl("model", "use", "alpha", "better")
    assert used.returncode == 0, used.stderr
    assert "llamacpp-models.yaml:6:29" in used.stderr
    link = served.home / "models/alpha.gguf"
    assert os.readlink(link) == "Better-F32/better.gguf"
    assert served.read(f"{LAB}/lab.yaml") == lab_before
    assert running_model(served, "alpha") == "Better-F32/better.gguf"
    assert_whole(served, 2)
    # The generation names the file, so that going back does not depend on the link.
    served.labctl("rollback", "1", check=True)
    assert running_model(served, "alpha") == "first.gguf"


def test_a_link_to_a_model_that_does_not_start_is_put_back(served: LightHost) -> None:
    failed = served.labctl("model", "use", "alpha", "broken")
    assert failed.returncode == 10, failed.stdout + failed.stderr
    assert "taken back: the link" in failed.stderr
    assert os.readlink(served.home / "models/alpha.gguf") == "first.gguf"
    assert running_model(served, "alpha") == "first.gguf"
    assert_whole(served, 1)
    assert served.labctl("plan", "--detailed-exitcode").returncode == 0


def test_lab_yaml_is_edited_at_one_place(served: LightHost) -> None:
    before = served.read(f"{LAB}/lab.yaml")
    used = served.labctl("model", "use", "beta", "other.gguf")
    assert used.returncode == 0, used.stderr
    after = served.read(f"{LAB}/lab.yaml")
    assert after == before.replace("model: ~/models/beta.gguf", "model: ~/models/other.gguf")
    assert running_model(served, "beta") == "other.gguf"
    assert_whole(served, 2)
    again = served.labctl("model", "use", "beta", "other")
    assert (again.returncode, served.read(f"{LAB}/lab.yaml")) == (0, after)


def test_lab_yaml_is_put_back_when_the_deploy_fails(served: LightHost) -> None:
    before = (served.home / LAB / "lab.yaml").read_bytes()
    failed = served.labctl("model", "use", "beta", "~/models/broken.gguf")
    assert failed.returncode == 10, failed.stdout + failed.stderr
    assert (served.home / LAB / "lab.yaml").read_bytes() == before
    assert running_model(served, "beta") == "beta.gguf"
    assert_whole(served, 1)


def test_what_cannot_be_used_touches_nothing(served: LightHost) -> None:
    served.write("models/cut.gguf", (served.home / "models/other.gguf").read_bytes()[:-5000])
    state = sorted(p.name for p in (served.home / STATE / "generations").iterdir())
    for arguments, code, words in (
        (("beta", "othr"), 64, "did you mean other?"),
        (("beat", "other"), 64, "did you mean beta?"),
        (("beta", "gone"), 64, "is not on this host"),
        (("beta", "/no/such.gguf"), 64, "no model file"),
        (("beta", "cut"), None, "cut short"),
    ):
        done = served.labctl("model", "use", *arguments)
        assert done.returncode == code or (code is None and done.returncode != 0)
        assert words in done.stderr, done.stderr
    assert sorted(p.name for p in (served.home / STATE / "generations").iterdir()) == state
