"""The plan against the backend's own figures: where they disagree, the backend is trusted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.gpu.trial import Wish
from agent.model.placement import (
    MIB,
    DeviceNeed,
    GpuLedger,
    OracleDevice,
    OracleFigures,
    Refusal,
    ServicePlacement,
    whole_mib,
)


def confirmed(
    wish: Wish, placed: ServicePlacement, figures: OracleFigures | None
) -> ServicePlacement | Refusal:
    """The placement with the backend's word on it.

    A program that finds fewer GPUs than planned (a CPU build, a driver that it cannot use) would
    run on the CPU and say `offloaded 33/33`: `auto` goes to the CPU knowingly, a number is refused.
    """
    if figures is None:
        return replace(placed, oracle="the program gives no figures of its own: the formula stands")
    if len(figures.devices) < len(placed.needs):
        return _deviceless(wish, placed, figures)
    pairs = list(zip(placed.needs, figures.devices, strict=False))
    trusted = tuple(_trusted(need, device) for need, device in pairs)
    sums = "; ".join(
        f"{d.name}: model {d.model_mib}, KV {d.kv_mib}, compute {d.compute_mib} MiB"
        for d in figures.devices
    )
    differ = [words for need, device in pairs if (words := _difference(need, device))]
    said = f"the program disagrees and is trusted: {'; '.join(differ)}" if differ else ""
    said = said or f"the program agrees: {sums}"
    return replace(placed, needs=trusted, oracle=said)


def overdrawn(placed: ServicePlacement, room: Sequence[GpuLedger]) -> Refusal | None:
    """The refusal of a placement that its ledgers cannot hold; None when they can."""
    left = {ledger.uuid: ledger for ledger in room}
    short = [n for n in placed.needs if n.total_mib > left[n.uuid].left_mib]
    if not short:
        return None
    needed = " and ".join(
        f"{n.total_mib} MiB on {left[n.uuid].name}, {max(left[n.uuid].left_mib, 0)} are free"
        for n in short
    )
    return Refusal(
        (placed.service,),
        f"{placed.service}: {placed.layers}/{placed.of} layers need {needed}; {placed.oracle}",
        tuple(left[need.uuid].arithmetic for need in short),
        "`gpu_layers: auto` takes what fits",
    )


def _trusted(need: DeviceNeed, device: OracleDevice) -> DeviceNeed:
    """The backend's figures, one MiB up because it floors them, where they differ from ours."""
    if not _difference(need, device):
        return need
    exact = _same(need.model_bytes, device.model_mib) and _same(need.kv_bytes, device.kv_mib)
    return replace(
        need,
        model_bytes=need.model_bytes if exact else (device.model_mib + 1) * MIB,
        kv_bytes=need.kv_bytes if exact else (device.kv_mib + 1) * MIB,
        compute_bytes=max(need.compute_bytes, (device.compute_mib + 1) * MIB),
        exact=exact,
    )


def _difference(need: DeviceNeed, device: OracleDevice) -> str:
    """What differs by more than rounding; the formula's compute figure is an upper bound."""
    found = [
        f"{what} {said} MiB, the formula {ours / MIB:.1f}"
        for what, said, ours in (
            ("model", device.model_mib, need.model_bytes),
            ("KV", device.kv_mib, need.kv_bytes),
        )
        if not _same(ours, said)
    ]
    if device.compute_mib > whole_mib(need.compute_bytes):
        found.append(
            f"compute {device.compute_mib} MiB, the formula {need.compute_bytes / MIB:.1f}"
        )
    return f"{device.name} {', '.join(found)}" if found else ""


def _same(ours_bytes: int, said_mib: int) -> bool:
    """Equal to the floored MiB."""
    return ours_bytes // MIB == said_mib


def _deviceless(
    wish: Wish, placed: ServicePlacement, figures: OracleFigures
) -> ServicePlacement | Refusal:
    seen = ", ".join(device.name for device in figures.devices) or "no GPU"
    said = f"its llama-server finds {seen}"
    if wish.asked is None:
        assert wish.forecast is not None
        host = wish.forecast(0, ()).host
        need = DeviceNeed("", host.model_bytes, host.kv_bytes, host.compute_bound_bytes)
        why = f"0/{placed.of}: {said}, all on the CPU"
        return ServicePlacement(
            placed.service, 0, placed.of, host=need, why=why, oracle=said, basis=placed.basis
        )
    return Refusal(
        (placed.service,),
        f"{placed.service}: planned {placed.layers}/{placed.of} on {len(placed.gpus)} GPU,"
        f" but {said}: it would run on the CPU and say otherwise",
        hint="install a build for this GPU (CUDA, Vulkan, ROCm), or set `gpu_layers: 0`",
    )
