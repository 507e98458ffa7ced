"""The memory formula against a real llama-server: `python -m tests.bench.offload_grid`.

Every run starts the server with one model and one setting on a Vulkan device (Mesa's software
device will do), reads the buffer lines of its log, and stops it before it computes anything. The
table of errors that it writes to stdout stands in `docs/memory-formula.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import median

from agent.cli.model_facts import read_model
from agent.gpu.memory import predict
from agent.model.errors import LabctlError
from agent.model.gguf import CPU, VULKAN, Budget, CacheType, LoadRequest
from tests.host.synthetic_gguf import RECIPES, WIDE_RECIPES, Recipe, write_model

MIB = 1 << 20
_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute) buffer size =\s*([0-9.]+) MiB")
_ROUNDING_MIB = 0.005001  # the log has two digits
_PATIENCE_S = 120  # the first run on a machine compiles shaders


@dataclass(frozen=True, slots=True)
class Buffers:
    """What a server's log says: MiB by device name, and how many lines each figure sums up."""

    model: Mapping[str, float] = field(default_factory=dict)
    kv: Mapping[str, float] = field(default_factory=dict)
    compute: Mapping[str, float] = field(default_factory=dict)
    kv_lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run, in MiB; the compute figures are of the device that comes nearest to its bound."""

    model_name: str
    setting: str
    full: bool
    devices: int
    model_error: float
    kv_error: float
    compute: float
    likely: float
    bound: float
    host_compute: float
    host_bound: float

    @property
    def exact(self) -> bool:
        """Model and KV are equal to what the log says, rounded as the log rounds."""
        return max(self.model_error, self.kv_error) <= _ROUNDING_MIB

    @property
    def within(self) -> bool:
        """No compute buffer is above its bound."""
        over = max(self.compute - self.bound, self.host_compute - self.host_bound)
        return over <= _ROUNDING_MIB


def environment(server: Path, devices: int = 1) -> dict[str, str]:
    """What the server needs to find its libraries and `devices` times the first Vulkan device."""
    wanted = {
        "LD_LIBRARY_PATH": str(server.resolve().parent),
        "GGML_VK_VISIBLE_DEVICES": ",".join("0" for _ in range(devices)),
    }
    return {**os.environ, **wanted}


def arguments(load: LoadRequest) -> list[str]:
    """The options of llama-server that say the same as `load`."""
    words = ["-c", str(load.context), "-b", str(load.batch), "-ub", str(load.micro_batch)]
    words += ["-ngl", "all" if load.layers is None else str(load.layers)]
    words += ["-ctk", str(load.cache_type_k), "-ctv", str(load.cache_type_v)]
    words += ["-np", str(load.slots)] if load.slots is not None else []
    words += ["-kvu"] if load.unified else []
    flash = {None: "auto", True: "on", False: "off"}[load.flash_attention]
    words += ["-fa", flash]
    words += ["-ts", ",".join(map(str, load.splits))] if load.splits else []
    words += ["-ncmoe", str(load.cpu_moe)] if load.cpu_moe else []
    words += ["--swa-full"] if load.swa_full else []
    words += [] if load.kv_offload else ["-nkvo"]
    for pattern, device in load.overrides:
        words += ["-ot", f"{pattern}={'CPU' if device == CPU else f'Vulkan{device}'}"]
    return words


def measure(server: Path, model: Path, load: LoadRequest, devices: int = 1) -> Buffers:
    """The buffer lines of one real load. Raises RuntimeError with the log when there are none."""
    words = [str(server), "-m", str(model), "--host", "127.0.0.1", "--port", str(_free_port())]
    words += ["-t", "1", "-fit", "off", "-lv", "4", "--no-warmup", *arguments(load)]
    process = subprocess.Popen(
        words,
        env=environment(server, devices),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    deadline = threading.Timer(_PATIENCE_S, process.kill)
    deadline.start()
    seen: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if "graph splits" in line:
                return parse_buffers(seen)
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()
    raise RuntimeError(f"{' '.join(words)}\n{''.join(seen[-15:])}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def parse_buffers(log: Sequence[str]) -> Buffers:
    """Sum the lines by device; a cache can have two lines, one for its windowed blocks."""
    sums: dict[str, dict[str, float]] = {"model": {}, "KV": {}, "compute": {}}
    kv_lines: dict[str, int] = {}
    for line in log:
        found = _BUFFER.search(line)
        if found is None:
            continue
        device, what, size = found[1], found[2], float(found[3])
        if what in ("KV", "RS"):
            kv_lines[device] = kv_lines.get(device, 0) + 1
        table = sums["KV" if what == "RS" else what]
        table[device] = size if what == "compute" else table.get(device, 0.0) + size
    return Buffers(sums["model"], sums["KV"], sums["compute"], kv_lines)


def compare(name: str, setting: str, budget: Budget, measured: Buffers) -> Outcome:
    """The errors of one run over all its devices."""
    devices = {f"Vulkan{index}": device for index, device in enumerate(budget.devices)}
    model = [abs(d.model_bytes / MIB - measured.model.get(at, 0.0)) for at, d in devices.items()]
    kv = {at: d.kv_bytes / MIB for at, d in devices.items()} | {"CPU": budget.host.kv_bytes / MIB}
    kv_errors = [
        # Each line is rounded to 0.01 MiB by itself.
        abs(size - measured.kv.get(at, 0.0)) / max(measured.kv_lines.get(at, 1), 1)
        for at, size in kv.items()
    ]
    compute = {at: measured.compute.get(at, 0.0) for at in devices}
    used = [at for at in devices if compute[at]] or list(devices)
    tightest = max(used, key=lambda at: compute[at] - devices[at].compute_bound_bytes / MIB)
    return Outcome(
        model_name=name,
        setting=setting,
        full=CPU not in budget.assigned,
        devices=len(devices),
        model_error=max(model),
        kv_error=max(kv_errors),
        compute=compute[tightest],
        likely=devices[tightest].compute_bytes / MIB,
        bound=devices[tightest].compute_bound_bytes / MIB,
        host_compute=sum(s for at, s in measured.compute.items() if at not in devices),
        host_bound=budget.host.compute_bound_bytes / MIB,
    )


def settings(layers: int, *, experts: bool, window: bool, cache: bool) -> Iterator[LoadRequest]:
    """The grid: one base, and what differs from it in one or two ways."""
    base = LoadRequest(context=2048, micro_batch=256, flash_attention=True, slots=1, traits=VULKAN)
    yield base
    yield replace(base, slots=None)
    yield replace(base, slots=3)
    yield replace(base, slots=2, unified=True, context=3000)
    yield replace(base, layers=1)
    yield replace(base, layers=layers)
    yield replace(base, layers=layers // 2, micro_batch=512)
    yield replace(base, context=1000, micro_batch=512, batch=128)
    yield replace(base, kv_offload=False)
    yield replace(base, overrides=((r"blk\.[01]\.ffn", CPU),))
    if cache:
        yield replace(base, flash_attention=False)
        yield replace(base, flash_attention=False, layers=layers - 1, context=4096)
        yield replace(base, cache_type_k=CacheType.Q8_0, cache_type_v=CacheType.Q8_0)
        yield replace(base, cache_type_k=CacheType.Q4_0, cache_type_v=CacheType.Q5_1)
        yield replace(base, cache_type_k=CacheType.BF16, cache_type_v=CacheType.F32, layers=2)
    if window:
        yield replace(base, swa_full=True, context=4096)
        yield replace(base, context=8192)
        yield replace(base, context=8192, slots=4)
        yield replace(base, context=8192, slots=4, unified=True)
    if experts:
        yield replace(base, cpu_moe=2)
        yield replace(base, cpu_moe=layers)
    yield replace(base, context=16384, micro_batch=512)
    yield replace(base, slots=8, context=8192, micro_batch=64)
    yield replace(base, splits=(1.0, 1.0))
    yield replace(base, splits=(1.0, 1.0), context=16384)
    yield replace(base, splits=(2.0, 1.0, 1.0))
    yield replace(base, splits=(3.0, 1.0), layers=layers - 1)


def chosen(dice: Random, recipe: Recipe) -> LoadRequest:
    """One setting at random, to check the bounds where nobody looked while they were made."""
    flash = dice.random() < 0.7
    types = (
        [kind for kind in CacheType if kind is not CacheType.IQ4_NL] if flash else [CacheType.F16]
    )
    cache = dice.choice(types) if recipe.architecture != "mamba" else CacheType.F16
    devices = dice.choice((1, 1, 1, 2, 3))
    return LoadRequest(
        layers=dice.choice((None, dice.randint(1, recipe.layers))),
        context=dice.choice((300, 1024, 2048, 5000, 8192, 20000)),
        slots=dice.choice((None, 1, 1, 2, 3, 4, 6)),
        unified=dice.choice((None, True)),
        cache_type_k=cache,
        cache_type_v=cache,
        batch=dice.choice((2048, 2048, 256, 1024)),
        micro_batch=dice.choice((512, 512, 64, 128, 256, 1024)),
        flash_attention=flash,
        splits=tuple(float(dice.randint(1, 5)) for _ in range(devices)) if devices > 1 else (),
        cpu_moe=dice.choice((0, dice.randint(1, recipe.layers))) if recipe.experts else 0,
        swa_full=dice.random() < 0.2,
        kv_offload=dice.random() < 0.9,
        overrides=((r"\.ffn_(up|down)\.", CPU),) if dice.random() < 0.1 else (),
        traits=VULKAN,
    )


def describe(load: LoadRequest) -> str:
    """The setting on one line: the options without those that every run has."""
    return " ".join(arguments(load))


def run_grid(
    server: Path, folder: Path, recipes: Sequence[Recipe], dice: Sequence[int]
) -> Iterator[Outcome | str]:
    """Every run's outcome, or one sentence where the server refused the setting.

    `dice` is empty for the grid, else (seed, runs a model) of random settings.
    """
    for recipe in recipes:
        path = write_model(folder / f"{recipe.name}.gguf", recipe)
        facts = read_model(str(path))
        for load in _loads(recipe, dice):
            devices = max(1, len(load.splits))
            try:
                budget = predict(facts, load, devices)
                measured = measure(server, path, load, devices)
            except (RuntimeError, LabctlError) as refused:
                yield f"{recipe.name} {describe(load)}: {refused}"
                continue
            yield compare(recipe.name, describe(load), budget, measured)
        path.unlink()


def _loads(recipe: Recipe, dice: Sequence[int]) -> Iterator[LoadRequest]:
    if dice:
        random = Random(f"{dice[0]} {recipe.name}")
        drawn = (chosen(random, recipe) for _ in range(dice[1]))
        yield from (load for load in drawn if _fits_software(recipe, load))
        return
    yield from settings(
        recipe.layers,
        experts=recipe.experts > 0,
        window=recipe.window > 0,
        cache=recipe.architecture != "mamba",
    )


def _fits_software(recipe: Recipe, load: LoadRequest) -> bool:
    """Mesa's software device binds 128 MiB at most: a larger product is computed on the host."""
    product = 4 * min(load.micro_batch, load.batch) * (load.context + 512) * recipe.heads
    return load.flash_attention is True or product < 128 * MIB


def table(outcomes: Sequence[Outcome]) -> str:
    """Errors by family, as a Markdown table."""
    lines = [
        "| model | runs | model and KV exact | largest error, MiB | compute within the bound "
        "| bound / measured, median "
        "| likely / measured - 1, all layers on one device: median (95 % within) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = list(dict.fromkeys(outcome.model_name for outcome in outcomes))
    for name in [*names, "all"]:
        rows = [o for o in outcomes if name in (o.model_name, "all")]
        full = [o for o in rows if o.full and o.devices == 1 and o.compute]
        errors = [100 * (o.likely / o.compute - 1) for o in full]
        ratios = [o.bound / o.compute for o in rows if o.compute]
        far = sorted(map(abs, errors))[int(0.95 * (len(errors) - 1))]
        largest = max(max(o.model_error, o.kv_error) for o in rows)
        lines.append(
            f"| {name} | {len(rows)} | {sum(o.exact for o in rows)} | {largest:.4f} "
            f"| {sum(o.within for o in rows)} | {median(ratios):.2f} "
            f"| {median(errors):+.1f} % ({far:.1f} %) |"
        )
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """0 when every run is exact and within its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", type=Path, help="the llama-server program")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument(
        "--random",
        type=int,
        nargs=2,
        default=[],
        metavar=("SEED", "RUNS"),
        help="so many random settings of each model instead of the grid",
    )
    parser.add_argument("--wide", action="store_true", help="models as wide as real ones")
    options = parser.parse_args(words)
    recipes = [r for r in (WIDE_RECIPES if options.wide else RECIPES) if options.only in r.name]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="offload-grid-") as folder:
        for found in run_grid(options.server, Path(folder), recipes, options.random):
            if isinstance(found, str):
                sys.stderr.write(f"REFUSED {found}\n")
                continue
            outcomes.append(found)
            if not (found.exact and found.within):
                sys.stderr.write(f"OFF {found}\n")
    sys.stdout.write(table(outcomes) + "\n")
    return 0 if all(o.exact and o.within for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
