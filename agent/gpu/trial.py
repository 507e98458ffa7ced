"""One number of layers of one service on one set of GPUs: what it needs there. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.gpu.ledger import Costs
from agent.gpu.memory import predict
from agent.model.gguf import Budget, LoadRequest, ModelFacts
from agent.model.placement import MIB, DeviceNeed, GpuLedger, ServicePlacement

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


@dataclass(frozen=True, slots=True)
class Trial:
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


def attempt(
    wish: Wish,
    layers: int,
    crew: tuple[GpuLedger, ...],
    costs: Costs,
    splits: tuple[float, ...] | None = None,
) -> Trial:
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
    return Trial(layers, crew, splits, needs, host)


def _splits(crew: tuple[GpuLedger, ...], costs: Costs) -> tuple[float, ...]:
    """In proportion to what is free for buffers; whole MiB, so that the text of `-ts` is exact."""
    if len(crew) == 1:
        return ()
    return tuple(float(max(led.left_mib - costs.context_mib(led.uuid), 0)) for led in crew)


def crews_of(usable: Sequence[GpuLedger], costs: Costs) -> Iterator[tuple[GpuLedger, ...]]:
    """Single GPUs, the tightest first; then ever more of them together, the freest first."""
    by_free = sorted(usable, key=lambda ledger: -ledger.left_mib)
    yield from ((ledger,) for ledger in reversed(by_free))
    open_to_share = [led for led in by_free if led.left_mib > costs.context_mib(led.uuid)]
    for size in range(2, len(open_to_share) + 1):
        # The order of the GPUs is that of the host: it is what the process is told to see.
        chosen = [led for led in usable if led in open_to_share[:size]]
        yield tuple(chosen)
