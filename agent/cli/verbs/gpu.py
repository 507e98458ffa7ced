"""`labctl gpu`: the GPUs of this host, who uses them, and what would fit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import options

if TYPE_CHECKING:
    from agent.cli.views.gpu import GpuSeen, ServiceOnGpu
    from agent.cli.views.gpu_plan import PlanSeen
    from agent.model.generation import Generation
    from agent.model.gguf import CacheType, LoadRequest

gpu_app = typer.Typer(help="Show the GPUs of this host, or plan for them.", rich_markup_mode=None)
SLOTS_MAX = 1024
CONTEXT_MAX = 1 << 26
CacheTypeName = Annotated[str, typer.Option(metavar="TYPE", help="f16, q8_0, q4_0, ...")]


@gpu_app.callback(invoke_without_command=True)
def gpu(context: typer.Context, as_json: options.Json = False) -> None:
    """Show devices, driver, memory, who uses it, and troubles. Exit 3 when a GPU is in trouble."""
    from agent.cli.output import say_json, say_lines, wants_colour
    from agent.cli.views.gpu import gpu_json, gpu_lines
    from agent.model.errors import ExitCode

    if context.invoked_subcommand is not None:
        return
    seen = look_at_gpus()
    if as_json:
        say_json(gpu_json(seen))
    else:
        say_lines(gpu_lines(seen, colour=wants_colour(sys.stdout)))
    raise typer.Exit(ExitCode.OK if seen.healthy else ExitCode.UNHEALTHY)


def look_at_gpus() -> GpuSeen:
    """NVML's reading, and whose processes are on the GPUs. Works where nothing was deployed."""
    from agent.cli.gpus import read_gpus
    from agent.cli.host import open_host, recover_if_needed
    from agent.cli.views.gpu import GpuSeen
    from agent.host.gpu_owners import owners

    host = open_host()
    recover_if_needed(host)
    current = host.store.current()
    reading = read_gpus()
    specs = current.manifest.services if current else ()
    return GpuSeen(
        reading,
        owners=owners(process.pid for process in reading.processes),
        names={spec.unit: spec.name for spec in specs},
        services=planned_and_proven(current) if current else (),
    )


def planned_and_proven(generation: Generation) -> tuple[ServiceOnGpu, ...]:
    """Every llama.cpp service of a generation, with what its manifest plans and its proof shows."""
    from agent.cli.views.gpu import ServiceOnGpu
    from agent.model.kinds import ServiceKind

    kinds = (ServiceKind.LLAMACPP_NATIVE, ServiceKind.LLAMACPP_PYTHON)
    proofs = {p.service: p for p in generation.judgement.proofs} if generation.judgement else {}
    return tuple(
        ServiceOnGpu(
            spec.name,
            spec.unit,
            planned=generation.manifest.placement(spec.name),
            proven=proofs.get(spec.name),
        )
        for spec in generation.manifest.services
        if spec.kind in kinds
    )


@gpu_app.command("plan")
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A GGUF file, or its first part.")],
    ctx: Annotated[
        int,
        typer.Option(min=0, max=CONTEXT_MAX, help="Tokens of all slots; 0: as trained."),
    ] = 0,
    slots: Annotated[
        int | None,
        typer.Option(min=1, max=SLOTS_MAX, help="Parallel slots; without it 4 share one cache."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=0, max=100_000, help="A number to test; without it the most.")
    ] = None,
    cache_type_k: CacheTypeName = "f16",
    cache_type_v: CacheTypeName = "f16",
    ubatch: Annotated[int, typer.Option(min=1, max=1 << 20, help="The micro-batch.")] = 512,
    flash_attention: Annotated[
        bool | None, typer.Option(help="On or off; without it the budget holds for both.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say what of a model fits on this host, with the whole budget. Exit 78 when it does not."""
    from agent.cli.output import say_json, say_lines
    from agent.cli.views.gpu_plan import plan_json, plan_lines
    from agent.model.errors import ExitCode
    from agent.model.gguf import LoadRequest

    request = LoadRequest(
        layers=layers,
        context=ctx,
        slots=slots,
        cache_type_k=cache_type(cache_type_k),
        cache_type_v=cache_type(cache_type_v),
        batch=max(2048, ubatch),
        micro_batch=ubatch,
        flash_attention=flash_attention,
    )
    seen = answer(model, request)
    if as_json:
        say_json(plan_json(seen))
    else:
        say_lines(plan_lines(seen))
    raise typer.Exit(ExitCode.OK if seen.fits else ExitCode.REFUSED)


def answer(path: str, request: LoadRequest) -> PlanSeen:
    """Read the header, the GPUs, and place the model alone on what is free now."""
    from pathlib import Path

    from agent.cli.gpus import read_gpus
    from agent.cli.model_facts import read_model
    from agent.cli.views.gpu_plan import PlanSeen
    from agent.gpu.ledger import Costs, open_ledgers
    from agent.gpu.memory import predict
    from agent.gpu.placement import choose_layers

    model = read_model(path)
    reading = read_gpus()
    costs = Costs()
    ledgers = open_ledgers(reading, (), costs)
    name = model.name or Path(path).name
    return PlanSeen(
        path=path,
        model=model,
        request=request,
        ledgers=ledgers,
        answer=choose_layers(name, model, request, ledgers, costs, layers=request.layers),
        full=predict(model, full_offload(request)),
        trouble=reading.trouble or next(iter(reading.troubles), None),
    )


def full_offload(request: LoadRequest) -> LoadRequest:
    """The same load with every layer on one device."""
    from dataclasses import replace

    return replace(request, layers=None, splits=())


def cache_type(text: str) -> CacheType:
    """A cache type by the name that llama.cpp gives it. Raises UsageProblem."""
    import difflib

    from agent.model.errors import UsageProblem
    from agent.model.gguf import CacheType

    names = [str(kind) for kind in CacheType]
    if text in names:
        return CacheType(text)
    close = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(names)}"
    raise UsageProblem(f"no cache type is called {text!r}", hint=hint)
