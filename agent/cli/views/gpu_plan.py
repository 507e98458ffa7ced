"""What of a model fits, with the whole budget, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.cli.output import table
from agent.model.gguf import Budget, LoadRequest, ModelFacts
from agent.model.gpu import GpuTrouble
from agent.model.placement import (
    DeviceNeed,
    GpuLedger,
    Refusal,
    ServicePlacement,
    whole_mib,
)

HEADERS = ("MIB ON", "MODEL", "KV", "COMPUTE", "CONTEXT", "TOTAL", "FREE")


@dataclass(frozen=True, slots=True)
class PlanSeen:
    """One question and its answer.

    Attributes:
        full: the budget of all layers on one device.
        trouble: why there is no GPU to plan for; None where there is one.
    """

    path: str
    model: ModelFacts
    request: LoadRequest
    ledgers: tuple[GpuLedger, ...]
    answer: ServicePlacement | Refusal
    full: Budget
    trouble: GpuTrouble | None = None

    @property
    def fits(self) -> bool:
        return isinstance(self.answer, ServicePlacement)

    @property
    def context(self) -> int:
        """Tokens, of all slots together."""
        return self.request.context or self.model.train_context


def plan_lines(seen: PlanSeen) -> list[str]:
    lines = [_model_line(seen), _request_line(seen), ""]
    answer = seen.answer
    if isinstance(answer, Refusal):
        lines += [f"does not fit: {answer.message}", *(f"  {line}" for line in answer.arithmetic)]
        lines += [f"  {answer.hint}"] if answer.hint else []
    else:
        lines += [answer.why, "", *table(HEADERS, list(_budget_rows(seen, answer)))]
        if not answer.on_gpu:
            lines += ["", _full_line(seen.full)]
        if answer.splits:
            lines.append(f"splits: {','.join(f'{split:g}' for split in answer.splits)}")
        lines += _ledger_lines(seen.ledgers)
    lines += [f"note: {caveat}" for caveat in seen.full.caveats]
    if seen.trouble is not None and seen.trouble.severity is not None:
        lines.append(f"{seen.trouble.severity}: {seen.trouble.message}")
        lines += [f"  remedy: {seen.trouble.remedy}"] if seen.trouble.remedy else []
    return lines


def _ledger_lines(ledgers: tuple[GpuLedger, ...]) -> list[str]:
    return ["", *(f"before: {ledger.arithmetic}" for ledger in ledgers)] if ledgers else []


def _model_line(seen: PlanSeen) -> str:
    model = seen.model
    words = [model.architecture, *([model.label] if model.label else [])]
    files = "1 file" if model.files == 1 else f"{model.files} files"
    trained = f", trained for {model.train_context} tokens" if model.train_context else ""
    return (
        f"{model.name or seen.path} ({' '.join(words)}): {whole_mib(model.file_bytes)} MiB in"
        f" {files}, {model.most_layers} layers with the output layer{trained}"
    )


def _request_line(seen: PlanSeen) -> str:
    request = seen.request
    flash = {None: "auto", True: "on", False: "off"}[request.flash_attention]
    shared = ", one cache" if request.is_unified else ""
    return (
        f"context {seen.context}, slots {request.slot_count}{shared}, cache"
        f" {request.cache_type_k}/{request.cache_type_v}, micro-batch {request.micro_batch},"
        f" flash attention {flash}"
    )


def _budget_rows(seen: PlanSeen, placed: ServicePlacement) -> Iterator[tuple[str, ...]]:
    by_uuid = {ledger.uuid: ledger for ledger in seen.ledgers}
    for need in placed.needs:
        ledger = by_uuid[need.uuid]
        yield _row(ledger.name, need, str(ledger.left_mib))
    yield _row("host", placed.host, "-")


def _row(name: str, need: DeviceNeed, free: str) -> tuple[str, ...]:
    return (name, *(str(size) for _, size in need.by_kind), str(need.total_mib), free)


def _full_line(full: Budget) -> str:
    device = full.devices[0]
    return (
        f"all {full.of} layers on one GPU would take {whole_mib(device.total_bytes)} MiB"
        f" (model {whole_mib(device.model_bytes)}, KV {whole_mib(device.kv_bytes)}, compute at most"
        f" {whole_mib(device.compute_bound_bytes)}) and the driver's context"
    )


def plan_json(seen: PlanSeen) -> dict[str, object]:
    model, answer = seen.model, seen.answer
    placed = isinstance(answer, ServicePlacement)
    return {
        "model": {
            "path": seen.path,
            "name": model.name,
            "architecture": model.architecture,
            "quantization": model.label,
            "file_bytes": model.file_bytes,
            "files": model.files,
            "layers": model.most_layers,
            "train_context": model.train_context,
            "unknown_family": model.unknown_family,
        },
        "asked": {
            "layers": seen.request.layers,
            "context": seen.context,
            "slots": seen.request.slot_count,
            "unified": seen.request.is_unified,
            "cache_type_k": seen.request.cache_type_k,
            "cache_type_v": seen.request.cache_type_v,
            "micro_batch": seen.request.micro_batch,
            "flash_attention": seen.request.flash_attention,
        },
        "fits": seen.fits,
        "placement": answer if placed else None,
        "refusal": None if placed else answer,
        "ledgers": [
            {"uuid": led.uuid, "name": led.name, "lines": list(led.lines), "left_mib": led.left_mib}
            for led in seen.ledgers
        ],
        "full_offload": seen.full,
        "trouble": seen.trouble,
    }
