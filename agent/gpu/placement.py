"""How many layers of one service go to which GPU, and why no more. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.gpu.ledger import Costs
from agent.gpu.memory import predict
from agent.model.gguf import Budget, LoadRequest, ModelFacts
from agent.model.placement import (
    MIB,
    DeviceNeed,
    GpuLedger,
    Refusal,
    ServicePlacement,
)

Forecast = Callable[[int, tuple[float, ...]], Budget]
"""(layers, splits) → the budget over `len(splits)` devices, or over one when there are none."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one service asks for.

    Attributes:
        of: layers that there are, the output layer included.
        layers: a number, of which more than `of` means all; None is `auto`.
        forecast: bytes for a number of layers; None where `fixed` says it all.
        fixed: (GPU UUID, MiB) that a service takes whatever its model, as vLLM does.
        pinned: UUIDs that the service may use; empty means any.
        basis: digest of all that is asked for.
        keep: how it was placed last time. Kept with its GPUs and splits while the basis is the
            same and it fits: a deploy that changes nothing shall not restart a model for a layer.
        exclusive: services of one group never run at the same time.
        cap: for `auto`, the most to take; None is all.
    """

    service: str
    of: int
    layers: int | None = None
    forecast: Forecast | None = None
    fixed: tuple[tuple[str, int], ...] = ()
    pinned: tuple[str, ...] = ()
    keep: ServicePlacement | None = None
    exclusive: str | None = None
    cap: int | None = None
    basis: str = ""

    @property
    def top(self) -> int:
        """The most layers that `auto` may take."""
        return self.of if self.cap is None else min(self.cap, self.of)

    @property
    def asked(self) -> int | None:
        """Layers as they are asked for, at most all; None is `auto`."""
        return None if self.layers is None else min(self.layers, self.of)


def wish_for(
    service: str,
    model: ModelFacts,
    request: LoadRequest,
    *,
    layers: int | None = None,
    pinned: tuple[str, ...] = (),
    keep: ServicePlacement | None = None,
    exclusive: str | None = None,
) -> Wish:
    """The wish of a llama.cpp service: `request` says all but the layers and the splits."""
    basis = hashlib.sha256(repr((model.digest, request, layers, pinned)).encode()).hexdigest()
    seen: dict[tuple[int, tuple[float, ...]], Budget] = {}

    def forecast(count: int, splits: tuple[float, ...]) -> Budget:
        if (count, splits) not in seen:
            load = replace(request, layers=count, splits=splits)
            seen[count, splits] = predict(model, load, max(len(splits), 1))
        return seen[count, splits]

    return Wish(
        service, model.most_layers, layers, forecast, (), pinned, keep, exclusive, basis=basis
    )


def choose_layers(
    service: str,
    model: ModelFacts,
    request: LoadRequest,
    ledgers: Sequence[GpuLedger],
    costs: Costs,
    *,
    layers: int | None = None,
) -> ServicePlacement | Refusal:
    """Place one model alone: `layers` None is `auto`. For `labctl gpu plan`."""
    return choose(wish_for(service, model, request, layers=layers), ledgers, costs)


def choose(wish: Wish, ledgers: Sequence[GpuLedger], costs: Costs) -> ServicePlacement | Refusal:
    """Place one service on what the ledgers leave.

    1. No GPU, or no layer asked for: the CPU.
    2. What it was placed with last time, while it is still what is asked for and fits.
    3. The layers asked for, or all: the tightest single GPU that holds them, else the
       fewest GPUs together, split in proportion to what is free.
    4. A number that does not fit is refused, with the whole sum.
    5. `auto` takes the most layers that fit: on fewer GPUs first, then where more is free.
    """
    usable = [ledger for ledger in ledgers if not wish.pinned or ledger.uuid in wish.pinned]
    if wish.fixed:
        return _fixed(wish, ledgers)
    if not usable or wish.asked == 0:
        return _on_cpu(wish, _no_gpu(wish) if not usable else f"0/{wish.of}: as asked")
    kept = _kept(wish, usable, costs)
    if kept is not None:
        return kept
    crews = list(_crews(usable, costs))
    first = wish.top if wish.asked is None else wish.asked
    fitting = next((t for crew in crews if (t := _try(wish, first, crew, costs)).fits), None)
    if fitting is not None:
        return _said(wish, fitting)
    if wish.asked is not None:
        return _refusal(wish, wish.asked, crews, costs)
    return _most(wish, crews, costs)


# -- one number of layers on one set of GPUs -----------------------------------------------


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a number of layers needs on a crew of GPUs."""

    layers: int
    crew: tuple[GpuLedger, ...]
    splits: tuple[float, ...]
    needs: tuple[DeviceNeed, ...]
    host: DeviceNeed

    @property
    def fits(self) -> bool:
        return self.short_mib == 0

    @property
    def lasting_mib(self) -> int:
        """Weights and KV cache on all its GPUs, rounded down: at least this is needed."""
        return sum(need.model_bytes + need.kv_bytes for need in self.needs) // MIB

    @property
    def short_mib(self) -> int:
        """What is missing, over all its GPUs."""
        pairs = zip(self.needs, self.crew, strict=True)
        return sum(max(need.total_mib - ledger.left_mib, 0) for need, ledger in pairs)


def _try(
    wish: Wish,
    layers: int,
    crew: tuple[GpuLedger, ...],
    costs: Costs,
    splits: tuple[float, ...] | None = None,
) -> _Trial:
    assert wish.forecast is not None
    splits = _splits(crew, costs) if splits is None else splits
    budget = wish.forecast(layers, splits)
    needs = tuple(
        DeviceNeed(
            ledger.uuid,
            device.model_bytes,
            device.kv_bytes,
            device.compute_bound_bytes,
            costs.context_mib(ledger.uuid),
        )
        for ledger, device in zip(crew, budget.devices, strict=True)
    )
    host = DeviceNeed(
        "", budget.host.model_bytes, budget.host.kv_bytes, budget.host.compute_bound_bytes
    )
    return _Trial(layers, crew, splits, needs, host)


def _splits(crew: tuple[GpuLedger, ...], costs: Costs) -> tuple[float, ...]:
    """In proportion to what is free for buffers; whole MiB, so that the text of `-ts` is exact."""
    if len(crew) == 1:
        return ()
    return tuple(float(max(led.left_mib - costs.context_mib(led.uuid), 0)) for led in crew)


def _crews(usable: Sequence[GpuLedger], costs: Costs) -> Iterator[tuple[GpuLedger, ...]]:
    """Single GPUs, the tightest first; then ever more of them together, the freest first."""
    by_free = sorted(usable, key=lambda ledger: -ledger.left_mib)
    yield from ((ledger,) for ledger in reversed(by_free))
    open_to_share = [led for led in by_free if led.left_mib > costs.context_mib(led.uuid)]
    for size in range(2, len(open_to_share) + 1):
        # The order of the GPUs is that of the host: it is what the process is told to see.
        chosen = [led for led in usable if led in open_to_share[:size]]
        yield tuple(chosen)


def _kept(wish: Wish, usable: Sequence[GpuLedger], costs: Costs) -> ServicePlacement | None:
    """Last time's placement, if it was for the same and still fits; None means choose anew."""
    last, here = wish.keep, {ledger.uuid: ledger for ledger in usable}
    if last is None or last.basis != wish.basis or not last.on_gpu or last.layers > wish.top:
        return None
    if not all(uuid in here for uuid in last.gpus):
        return None
    crew = tuple(here[uuid] for uuid in last.gpus)
    trial = _try(wish, last.layers, crew, costs, last.splits)
    if not trial.fits:
        return None
    said = _said(wish, trial)
    return replace(said, why=f"{said.why}, kept as it runs") if last.layers < wish.of else said


# -- auto ----------------------------------------------------------------------------------


def _most(wish: Wish, crews: Sequence[tuple[GpuLedger, ...]], costs: Costs) -> ServicePlacement:
    best: _Trial | None = None
    for crew in crews:
        # More GPUs have to bring more layers; of two single ones the freer may bring as many.
        least = 1 if best is None else best.layers + (len(crew) > len(best.crew))
        found = _most_on(wish, crew, costs, least)
        if found is not None and (best is None or _better(found, best)):
            best = found
    if best is not None:
        return _said(wish, best, costs)
    freest = max((crew for crew in crews if len(crew) == 1), key=lambda crew: crew[0].left_mib)
    first = _try(wish, 1, freest, costs)
    why = (
        f"0/{wish.of}: the first layer needs {first.needs[0].total_mib} MiB,"
        f" {max(freest[0].left_mib, 0)} are free on {freest[0].name}"
    )
    return _on_cpu(wish, why)


def _most_on(wish: Wish, crew: tuple[GpuLedger, ...], costs: Costs, least: int) -> _Trial | None:
    """The most layers, below `top`, that fit one crew; None when not even `least` do.

    Weights and KV cache of all GPUs together only grow with the layers, which bounds the number by
    bisection. Scratch may shrink when a large block leaves the CPU, and with splits a layer may
    move from one GPU to another, so that from the bound on only counting down is sure.
    """
    room_mib = sum(ledger.left_mib - costs.context_mib(ledger.uuid) for ledger in crew)
    low, high = least - 1, max(wish.top - 1, 0)
    while low < high:
        middle = (low + high + 1) // 2
        if _try(wish, middle, crew, costs).lasting_mib <= room_mib:
            low = middle
        else:
            high = middle - 1
    down = (_try(wish, count, crew, costs) for count in range(high, least - 1, -1))
    return next((trial for trial in down if trial.fits), None)


def _better(new: _Trial, old: _Trial) -> bool:
    """More layers, then fewer GPUs, then more room."""

    def rank(trial: _Trial) -> tuple[int, int, int]:
        room = sum(ledger.left_mib for ledger in trial.crew)
        return trial.layers, -len(trial.crew), room

    return rank(new) > rank(old)


# -- words ---------------------------------------------------------------------------------


def _said(wish: Wish, trial: _Trial, costs: Costs | None = None) -> ServicePlacement:
    """The placement with its sentence; `costs` only for a search that ended before all."""
    names = " and ".join(ledger.name for ledger in trial.crew)
    if costs is None or trial.layers == wish.of:
        pairs = zip(trial.needs, trial.crew, strict=True)
        sums = "; ".join(f"{n.total_mib} MiB needed, {led.left_mib} are free" for n, led in pairs)
        why = f"{trial.layers}/{wish.of} on {names}: {sums}"
    else:
        following = _try(wish, trial.layers + 1, trial.crew, costs)
        why = f"{trial.layers}/{wish.of} on {names}: {_missing(trial, following)}"
    return ServicePlacement(
        wish.service,
        trial.layers,
        wish.of,
        tuple(ledger.uuid for ledger in trial.crew),
        trial.splits,
        trial.needs,
        trial.host,
        why,
        basis=wish.basis,
    )


def _missing(trial: _Trial, following: _Trial) -> str:
    """What the next layer lacks, on the GPU that lacks most."""
    lacks = [
        (more.total_mib - ledger.left_mib, more.total_mib - need.total_mib, ledger, need)
        for more, need, ledger in zip(following.needs, trial.needs, trial.crew, strict=True)
    ]
    _, step_mib, ledger, need = max(lacks, key=lambda lack: lack[0])
    where = f" on {ledger.name}" if len(trial.crew) > 1 else ""
    free_mib = ledger.left_mib - need.total_mib
    return f"the next layer needs {step_mib} MiB, {free_mib} are free{where}"


def _on_cpu(wish: Wish, why: str) -> ServicePlacement:
    host = DeviceNeed("")
    if wish.forecast is not None:
        budget = wish.forecast(0, ()).host
        host = DeviceNeed("", budget.model_bytes, budget.kv_bytes, budget.compute_bound_bytes)
    return ServicePlacement(wish.service, 0, wish.of, host=host, why=why)


def _no_gpu(wish: Wish) -> str:
    asked = f" ({wish.asked} asked for)" if wish.asked else ""
    which = f"none of its GPUs ({', '.join(wish.pinned)}) is here" if wish.pinned else "no GPU"
    return f"0/{wish.of}: {which}, all on the CPU{asked}"


def _refusal(
    wish: Wish, asked: int, crews: Sequence[tuple[GpuLedger, ...]], costs: Costs
) -> Refusal:
    """The sum of the crew that comes nearest."""
    trial = min((_try(wish, asked, crew, costs) for crew in crews), key=lambda t: t.short_mib)
    lines = []
    for need, ledger in zip(trial.needs, trial.crew, strict=True):
        parts = ", ".join(f"{what} {mib}" for what, mib in need.by_kind)
        lines.append(ledger.arithmetic)
        lines.append(f"{wish.service} needs {need.total_mib} MiB there: {parts}")
    needed = " and ".join(
        f"{need.total_mib} MiB on {ledger.name}, {max(ledger.left_mib, 0)} are free"
        for need, ledger in zip(trial.needs, trial.crew, strict=True)
    )
    message = f"{wish.service}: {asked}/{wish.of} layers need {needed}: {trial.short_mib} MiB short"
    fits = _most(replace(wish, layers=None), crews, costs).layers
    hint = (
        f"{fits}/{wish.of} fit: `gpu_layers: auto` takes them; a smaller context, fewer slots or a"
        " smaller cache type leaves room for more"
    )
    return Refusal((wish.service,), message, tuple(lines), hint)


# -- all or nothing ------------------------------------------------------------------------


def _fixed(wish: Wish, ledgers: Sequence[GpuLedger]) -> ServicePlacement | Refusal:
    """A service that takes what it is told to, all or nothing."""
    here = {ledger.uuid: ledger for ledger in ledgers}
    absent = [uuid for uuid, _ in wish.fixed if uuid not in here]
    if absent:
        message = f"{wish.service}: {', '.join(absent)} is not on this host"
        return Refusal((wish.service,), message, hint="see `labctl gpu` for the GPUs that are")
    short = [(here[uuid], mib) for uuid, mib in wish.fixed if mib > here[uuid].left_mib]
    if short:
        needed = "; ".join(
            f"needs {mib} MiB on {led.name}, {max(led.left_mib, 0)} are free" for led, mib in short
        )
        lines = tuple(ledger.arithmetic for ledger, _ in short)
        hint = "give it a smaller share (vLLM: `--gpu-memory-utilization`)"
        return Refusal((wish.service,), f"{wish.service} {needed}", lines, hint)
    needs = tuple(DeviceNeed(uuid, model_bytes=mib * MIB, exact=False) for uuid, mib in wish.fixed)
    why = "; ".join(f"{mib} MiB of {here[uuid].name}" for uuid, mib in wish.fixed)
    gpus = tuple(uuid for uuid, _ in wish.fixed)
    return ServicePlacement(wish.service, wish.of, wish.of, gpus, needs=needs, why=f"takes {why}")
