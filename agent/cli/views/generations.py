"""Generations for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence

from agent.cli.output import table
from agent.model.generation import Generation


def generation_table(generations: Sequence[Generation], current: int | None) -> list[str]:
    rows = [
        (
            "*" if generation.number == current else "",
            str(generation.number),
            generation.manifest.created_at.replace("+00:00", "Z"),
            str(generation.manifest.kind),
            str(generation.standing),
            _reason(generation),
        )
        for generation in generations
    ]
    return table(("", "NUMBER", "CREATED", "KIND", "STANDING", "REASON"), rows)


def _reason(generation: Generation) -> str:
    manifest = generation.manifest
    commit = f" (git {manifest.git_commit[:12]})" if manifest.git_commit else ""
    return f"{manifest.reason}{commit}"


def generation_lines(generation: Generation, folder: str, edited: Sequence[str]) -> list[str]:
    manifest = generation.manifest
    lines = [
        f"generation {manifest.number}: {manifest.kind}, {generation.standing}",
        f"created: {manifest.created_at} by labctl {manifest.labctl_version}",
        f"reason: {_reason(generation)}",
        f"folder: {folder}",
    ]
    if manifest.restores is not None:
        lines.append(f"restores: generation {manifest.restores}")
    if manifest.lab:
        lines.append(f"lab: {manifest.lab}")
    if generation.judgement is not None:
        lines.append(f"judged: {generation.judgement.judged_at}")
        lines += [f"  {sentence}" for sentence in generation.judgement.evidence]
    lines.append("units:")
    lines += [
        f"  {spec.unit}{'' if spec.active else ' (stopped)'}"
        f"{'' if spec.required else ' (optional)'}"
        for spec in manifest.services
    ]
    lines.append("files:")
    lines += [f"  {file.path}" for file in manifest.files]
    lines += [f"  {file.stored} (kept from {file.path})" for file in manifest.host_files]
    lines += [f"edited by hand: {path}" for path in edited]
    return lines


def generation_json(generation: Generation) -> dict[str, object]:
    manifest = generation.manifest
    judgement = generation.judgement
    return {
        "number": manifest.number,
        "created_at": manifest.created_at,
        "kind": str(manifest.kind),
        "standing": str(generation.standing),
        "reason": manifest.reason,
        "restores": manifest.restores,
        "lab": manifest.lab,
        "git_commit": manifest.git_commit,
        "digest": manifest.digest,
        "labctl_version": manifest.labctl_version,
        "judged_at": judgement.judged_at if judgement else None,
        "evidence": list(judgement.evidence) if judgement else [],
        "units": [spec.unit for spec in manifest.services],
        "files": [file.path for file in manifest.files],
    }
