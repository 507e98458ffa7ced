"""How many layers of one service go to which GPU, and why no more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.gpu.ledger import Costs
from agent.gpu.trial import Trial, Wish, attempt, crews_of, wish_for
from agent.model.gguf import LoadRequest, ModelFacts
from agent.model.placement import (
    MIB,
    DeviceNeed,
    GpuLedger,
    Refusal,
    ServicePlacement,
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
    crews = list(crews_of(usable, costs))
    first = wish.top if wish.asked is None else wish.asked
    fitting = next((t for crew in crews if (t := attempt(wish, first, crew, costs)).fits), None)
    if fitting is not None:
        return _said(wish, fitting)
    if wish.asked is not None:
        return _refusal(wish, wish.asked, crews, costs)
    return _most(wish, crews, costs)


def _kept(wish: Wish, usable: Sequence[GpuLedger], costs: Costs) -> ServicePlacement | None:
    """Last time's placement, if it was for the same and still fits; None means choose anew."""
    last, here = wish.keep, {ledger.uuid: ledger for ledger in usable}
    if last is None or last.basis != wish.basis or not last.on_gpu or last.layers > wish.top:
        return None
    if not all(uuid in here for uuid in last.gpus):
        return None
    crew = tuple(here[uuid] for uuid in last.gpus)
    trial = attempt(wish, last.layers, crew, costs, last.splits)
    if not trial.fits:
        return None
    said = _said(wish, trial)
    return replace(said, why=f"{said.why}, kept as it runs") if last.layers < wish.of else said


# -- auto ----------------------------------------------------------------------------------


def _most(wish: Wish, crews: Sequence[tuple[GpuLedger, ...]], costs: Costs) -> ServicePlacement:
    best: Trial | None = None
    for crew in crews:
        # More GPUs have to bring more layers; of two single ones the freer may bring as many.
        least = 1 if best is None else best.layers + (len(crew) > len(best.crew))
        found = _most_on(wish, crew, costs, least)
        if found is not None and (best is None or _better(found, best)):
            best = found
    if best is not None:
        return _said(wish, best, costs)
    freest = max((crew for crew in crews if len(crew) == 1), key=lambda crew: crew[0].left_mib)
    first = attempt(wish, 1, freest, costs)
    why = (
        f"0/{wish.of}: the first layer needs {first.needs[0].total_mib} MiB,"
        f" {max(freest[0].left_mib, 0)} are free on {freest[0].name}"
    )
    return _on_cpu(wish, why)


def _most_on(wish: Wish, crew: tuple[GpuLedger, ...], costs: Costs, least: int) -> Trial | None:
    """The most layers, below `top`, that fit one crew; None when not even `least` do.

    Weights and KV cache of all GPUs together only grow with the layers, which bounds the number by
    bisection. Scratch may shrink when a large block leaves the CPU, and with splits a layer may
    move from one GPU to another, so that from the bound on only counting down is sure.
    """
    room_mib = sum(ledger.left_mib - costs.context_mib(ledger.uuid) for ledger in crew)
    low, high = least - 1, max(wish.top - 1, 0)
    while low < high:
        middle = (low + high + 1) // 2
        if attempt(wish, middle, crew, costs).lasting_mib <= room_mib:
            low = middle
        else:
            high = middle - 1
    down = (attempt(wish, count, crew, costs) for count in range(high, least - 1, -1))
    return next((trial for trial in down if trial.fits), None)


def _better(new: Trial, old: Trial) -> bool:
    """More layers, then fewer GPUs, then more room."""

    def rank(trial: Trial) -> tuple[int, int, int]:
        room = sum(ledger.left_mib for ledger in trial.crew)
        return trial.layers, -len(trial.crew), room

    return rank(new) > rank(old)


# -- words ---------------------------------------------------------------------------------


def _said(wish: Wish, trial: Trial, costs: Costs | None = None) -> ServicePlacement:
    """The placement with its sentence; `costs` only for a search that ended before all."""
    names = " and ".join(ledger.name for ledger in trial.crew)
    if costs is None or trial.layers == wish.of:
        pairs = zip(trial.needs, trial.crew, strict=True)
        sums = "; ".join(f"{n.total_mib} MiB needed, {led.left_mib} are free" for n, led in pairs)
        why = f"{trial.layers}/{wish.of} on {names}: {sums}"
    else:
        following = attempt(wish, trial.layers + 1, trial.crew, costs)
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


def _missing(trial: Trial, following: Trial) -> str:
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
    trial = min((attempt(wish, asked, crew, costs) for crew in crews), key=lambda t: t.short_mib)
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
