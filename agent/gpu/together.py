"""All services of a lab on one set of GPUs, confirmed by the backend's own figures. Pure.

Services with a number of layers of their own are placed first, then those that say `auto`, the
running ones before the new ones, each in the lab's order: what can yield pushes out nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.gpu.confirm import confirmed, overdrawn
from agent.gpu.ledger import Costs, planned_by, take
from agent.gpu.placement import choose
from agent.gpu.trial import Wish
from agent.model.placement import (
    MIB,
    GpuLedger,
    LedgerKind,
    LedgerLine,
    OracleFigures,
    Placement,
    Refusal,
    ServicePlacement,
)

Ask = Callable[[ServicePlacement], OracleFigures | None]
"""What the backend itself expects for a placement; None where it does not say."""

_MOST_ASKS = 8


def place(
    wishes: Sequence[Wish],
    ledgers: Sequence[GpuLedger],
    costs: Costs,
    ask: Ask | None = None,
) -> Placement:
    """Place every service; the ledgers that come back hold all of them."""
    left = tuple(ledgers)
    placed: dict[str, ServicePlacement] = {}
    refused: list[Refusal] = []
    for wish in sorted(wishes, key=_yields):
        rivals = [w.service for w in wishes if w.exclusive and w.exclusive == wish.exclusive]
        room = tuple(_without(ledger, rivals) for ledger in left)
        found = _settled(wish, room, costs, ask)
        if isinstance(found, Refusal):
            refused.append(_named(wish, found, room, costs))
            continue
        placed[wish.service] = found
        left = tuple(_taken(old, new, found, costs) for old, new in zip(left, room, strict=True))
    order = [wish.service for wish in wishes]
    services = tuple(placed[name] for name in order if name in placed)
    return Placement(services, left, tuple(refused))


def _yields(wish: Wish) -> int:
    """What cannot yield comes first, then what runs already, then what may take any number."""
    if wish.asked is not None or wish.fixed:
        return 0
    return 1 if wish.keep is not None and wish.keep.basis == wish.basis else 2


def _settled(
    wish: Wish, room: Sequence[GpuLedger], costs: Costs, ask: Ask | None
) -> ServicePlacement | Refusal:
    """The choice, with the backend's figures where they say more than the formula.

    Where those do not fit, `auto` yields layers and asks again, and a number is refused.
    """
    found = choose(wish, room, costs)
    for _ in range(_MOST_ASKS):
        if ask is None or isinstance(found, Refusal) or not found.on_gpu or wish.fixed:
            return found
        answer = confirmed(wish, found, ask(found))
        if isinstance(answer, Refusal):
            return answer
        short = overdrawn(answer, room)
        if short is None:
            return answer
        if wish.asked is not None:
            return short
        cap = found.layers - _too_many(answer, room)
        if cap == 0:
            break
        wish = replace(wish, cap=cap, keep=None)
        found = choose(wish, room, costs)
    why = f"0/{wish.of}: by the program's own figures no number of layers fits"
    on_cpu = choose(replace(wish, layers=0), room, costs)
    return on_cpu if isinstance(on_cpu, Refusal) else replace(on_cpu, why=why)


def _too_many(placed: ServicePlacement, room: Sequence[GpuLedger]) -> int:
    """How many layers to take off, at least one, if all of them were of one size."""
    left = {ledger.uuid: ledger.left_mib for ledger in room}
    short_mib = sum(max(need.total_mib - left[need.uuid], 0) for need in placed.needs)
    layered_mib = sum(need.model_bytes + need.kv_bytes for need in placed.needs) // MIB
    each_mib = max(layered_mib // placed.layers, 1)
    return min(max(short_mib // each_mib, 1), placed.layers)


def _without(ledger: GpuLedger, rivals: Sequence[str]) -> GpuLedger:
    """The ledger without what its exclusive rivals plan: they stop when this one starts."""
    rival = {*rivals}
    lines = tuple(line for line in ledger.lines if _service_of(line) not in rival)
    return replace(ledger, lines=lines)


def _service_of(line: LedgerLine) -> str | None:
    if line.kind not in (LedgerKind.PLANNED, LedgerKind.CONTEXT):
        return None
    return line.owner.partition(",")[0]


def _taken(before: GpuLedger, room: GpuLedger, placed: ServicePlacement, costs: Costs) -> GpuLedger:
    """The ledger for those to come: of exclusive rivals the one that takes most counts."""
    after = take(room, placed, costs)
    return after if after.left_mib < before.left_mib or room == before else before


def _named(wish: Wish, refusal: Refusal, room: Sequence[GpuLedger], costs: Costs) -> Refusal:
    """The refusal with the services that hold what it lacks, where it would fit without them."""
    others = planned_by(room)
    empty = tuple(_without(ledger, others) for ledger in room)
    if not others or isinstance(choose(wish, empty, costs), Refusal):
        return refusal
    held = ", ".join(f"{name} {_held_mib(room, name)} MiB" for name in others)
    message = f"{wish.service} does not fit beside {' and '.join(others)} ({held}): "
    return replace(refusal, services=(wish.service, *others), message=message + refusal.message)


def _held_mib(ledgers: Sequence[GpuLedger], service: str) -> int:
    lines = (line for ledger in ledgers for line in ledger.lines)
    return -sum(line.mib for line in lines if _service_of(line) == service)
