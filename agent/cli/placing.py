"""Where a lab's services go: reads models and GPUs, asks the programs; `agent.gpu` decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.cli.model_facts import read_model
from agent.gpu.launch import (
    asked_layers,
    backend_names,
    launch_variables,
    own_placement,
    request_of,
    traits_of,
)
from agent.gpu.ledger import Costs, Holding, open_ledgers, open_listed_ledgers
from agent.gpu.together import place
from agent.gpu.trial import Wish, wish_for
from agent.host.oracle import Oracle
from agent.model.errors import Refused
from agent.model.finding import Severity
from agent.model.gguf import LoadRequest
from agent.model.gpu import GpuReading, GpuTrouble, GpuTroubleKind
from agent.model.kinds import ServiceKind
from agent.model.lab import Service
from agent.model.placement import (
    GpuLedger,
    ListedDevice,
    OracleFigures,
    Placement,
    Refusal,
    ServicePlacement,
)

_PLANNED_KINDS = (ServiceKind.LLAMACPP_NATIVE, ServiceKind.LLAMACPP_PYTHON)
_VLLM_SHARE = 0.9  # `--gpu-memory-utilization` without a word


@dataclass(frozen=True, slots=True)
class LabPlacement:
    """A lab's placement, and what each placed service is to be started with."""

    placement: Placement
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One llama.cpp service, with all that was read for it."""

    service: Service
    program: str | None
    digest: str
    request: LoadRequest
    listed: tuple[ListedDevice, ...]
    names: Mapping[str, str]
    wish: Wish

    def variables(self, placed: ServicePlacement) -> dict[str, str]:
        return launch_variables(self.service.kind, placed, self.request, self.names)


def place_lab(
    services: Sequence[Service],
    programs: Mapping[str, str],
    reading: GpuReading,
    oracle: Oracle,
    *,
    holdings: Iterable[Holding] = (),
    costs: Costs | None = None,
    before: Mapping[str, ServicePlacement] | None = None,
    other_gpus: bool = True,
) -> LabPlacement:
    """Place the enabled services of a lab.

    Args:
        programs: by service name, its executable.
        holdings: what running units of ours hold now.
        before: by service name, how it was placed last time.
        other_gpus: GPUs may be there that NVML does not know; asking each program costs 0.1 s.

    Services that place themselves (`-ngl` in their words, Ollama) are left out. Raises LabctlError
    for a model file that cannot be read or a setting that cannot be planned with.
    """
    costs = costs or Costs()
    last = before or {}
    gpus = other_gpus or bool(reading.usable)
    asked = [
        _asked(
            service,
            programs.get(service.name),
            reading,
            oracle if gpus or _brings_its_own(service) else None,
            last.get(service.name),
        )
        for service in services
        if _is_ours(service)
    ]
    ledgers = open_ledgers(reading, holdings, costs)
    if not ledgers and _without_driver(reading):
        listed = next((one.listed for one in asked if one.listed), ())
        ledgers = open_listed_ledgers(listed, holdings, costs)
        asked = [_without_device(one) if ledgers else one for one in asked]
    shares = [_share(s, reading) for s in services if s.kind is ServiceKind.VLLM and s.enabled]
    wishes = _in_order(services, [one.wish for one in asked], [w for w in shares if w])
    by_name = {one.service.name: one for one in asked}

    def ask(placed: ServicePlacement) -> OracleFigures | None:
        return _figures(by_name[placed.service], placed, oracle)

    placement = _troubled(place(wishes, ledgers, costs, ask), wishes, ledgers, reading)
    variables = {
        placed.service: by_name[placed.service].variables(placed)
        for placed in placement.services
        if placed.service in by_name
    }
    return LabPlacement(placement, variables)


def _is_ours(service: Service) -> bool:
    planned = service.enabled and service.kind in _PLANNED_KINDS and service.model_file is not None
    return planned and not own_placement(service)


def _brings_its_own(service: Service) -> bool:
    """Whether its environment names a driver, as for Vulkan in software."""
    return any(name.startswith(("VK_", "GGML_VK_")) for name, _ in service.environment)


def _without_driver(reading: GpuReading) -> bool:
    """Whether NVML simply knows no GPU here, rather than none that works."""
    return _obstacle(reading) is None


def _obstacle(reading: GpuReading) -> GpuTrouble | None:
    """What keeps a GPU that is there from being planned with: the driver's trouble, or its own."""
    if reading.trouble is not None:
        return None if reading.trouble.kind is GpuTroubleKind.NO_DRIVER else reading.trouble
    return next((t for t in reading.troubles if t.severity is Severity.ERROR), None)


def _asked(
    service: Service,
    program: str | None,
    reading: GpuReading,
    oracle: Oracle | None,
    last: ServicePlacement | None,
) -> _Asked:
    model = read_model(service.model_file or "")
    native = service.kind is ServiceKind.LLAMACPP_NATIVE
    listed: tuple[ListedDevice, ...] = ()
    if oracle is not None and native and program is not None:
        listed = oracle.devices(program, dict(service.environment))
    request = request_of(service, traits_of(listed))
    names = backend_names(reading.usable, listed)
    wish = wish_for(
        service.name,
        model,
        request,
        layers=asked_layers(service),
        keep=last,
        exclusive=service.exclusive,
    )
    return _Asked(service, program, model.digest, request, listed, names, wish)


def _without_device(asked: _Asked) -> _Asked:
    """A server that lists no device goes to the CPU: other services may see GPUs that it cannot."""
    native = asked.service.kind is ServiceKind.LLAMACPP_NATIVE
    if asked.listed or not native:
        return asked
    if asked.wish.asked:
        raise Refused(
            f"{asked.service.name}: {asked.wish.asked} layers are asked for, and its llama-server"
            " finds no device",
            hint="see `llama-server --list-devices` with the service's environment; or set"
            " `gpu_layers: 0`",
        )
    return replace(asked, wish=replace(asked.wish, cap=0, keep=None))


def _figures(asked: _Asked, placed: ServicePlacement, oracle: Oracle) -> OracleFigures | None:
    """What the service's own program expects, with the variables that it would be started with."""
    service = asked.service
    if service.kind is not ServiceKind.LLAMACPP_NATIVE or asked.program is None:
        return None
    environment = {**asked.variables(placed), **dict(service.environment)}
    environment["LLAMA_ARG_MODEL"] = service.model_file or ""
    return oracle.ask(asked.program, service.args, asked.digest, environment)


def _share(service: Service, reading: GpuReading) -> Wish | None:
    """vLLM takes a fraction of its first GPU, whatever the model; None without a GPU."""
    gpu = next((gpu for gpu in reading.usable if gpu.total_mib is not None), None)
    if gpu is None or gpu.total_mib is None or own_placement(service):
        return None
    words = [*service.args]
    share = _VLLM_SHARE
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag == "--gpu-memory-utilization":
            share = _fraction(service.name, value if equals else following)
    fixed = ((gpu.uuid, round(gpu.total_mib * share)),)
    return Wish(service.name, 1, fixed=fixed, exclusive=service.exclusive)


def _fraction(service: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise Refused(
            f"{service}: --gpu-memory-utilization is {text!r}, which is no share of a GPU",
            hint="a number above 0 and up to 1",
        )
    return share


def _in_order(
    services: Sequence[Service], asked: Sequence[Wish], shares: Sequence[Wish]
) -> list[Wish]:
    by_name = {wish.service: wish for wish in (*asked, *shares)}
    return [by_name[service.name] for service in services if service.name in by_name]


def _troubled(
    placement: Placement,
    wishes: Sequence[Wish],
    ledgers: Sequence[GpuLedger],
    reading: GpuReading,
) -> Placement:
    """A GPU that cannot be read is no missing GPU: a number is refused, `auto` says why."""
    trouble = _obstacle(reading)
    if trouble is None or ledgers:
        return placement
    numbered = {wish.service for wish in wishes if wish.asked}
    refusals = tuple(
        Refusal((name,), f"{name}: {trouble.message}", hint=trouble.remedy)
        for name in sorted(numbered)
    )
    services = tuple(
        replace(placed, why=f"{placed.why} ({trouble.message})")
        for placed in placement.services
        if placed.service not in numbered
    )
    return Placement(services, placement.ledgers, (*placement.refusals, *refusals))
