"""Ollama says itself how much of a model is in GPU memory: its claim against the driver. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.gpu.proof import Held
from agent.model.placement import MIB, EvidenceLevel, OffloadProof, OffloadVerdict

# Ollama's figures are an estimate: 0.12 to 2.16 times the truth was measured.
_CLAIM_FACTOR = 2.5


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """One model of Ollama's `/api/ps`: its size and how much of it is said to be in VRAM."""

    name: str
    size_bytes: int
    vram_bytes: int


def prove_ollama(
    service: str, models: Sequence[OllamaModel], held: Held | None
) -> OffloadProof | None:
    """Ollama's claim (`size_vram`) against the driver; None while it has no model loaded."""
    if not models:
        return None
    size_mib = sum(model.size_bytes for model in models) // MIB
    vram_mib = sum(model.vram_bytes for model in models) // MIB
    evidence = [f"{m.name}: {m.vram_bytes // MIB} of {m.size_bytes // MIB} MiB" for m in models]
    evidence.append("Ollama's own claim")
    claimed = OffloadVerdict.PARTIAL if 0 < vram_mib < size_mib else OffloadVerdict.FULL
    claimed = OffloadVerdict.CPU if vram_mib == 0 else claimed
    level, because = EvidenceLevel.CLAIMED, ""
    against: tuple[str, ...] = ()
    used = None if held is None or None in held.values() else sum(v or 0 for v in held.values())
    verdict = claimed
    if used is not None:
        level = EvidenceLevel.MEASURED
        evidence.append(f"the driver shows {used} MiB for its processes")
    if claimed is not OffloadVerdict.CPU and used is None:
        verdict, because = OffloadVerdict.UNVERIFIABLE, "the driver does not tell"
    elif used is not None and used * _CLAIM_FACTOR < vram_mib:
        verdict = OffloadVerdict.CPU if used == 0 else OffloadVerdict.UNVERIFIABLE
        because = "claims more than it holds"
        against = (f"claims {vram_mib} MiB of GPU memory, the driver shows {used}",)
    return OffloadProof(
        service, verdict, None, None, level, tuple(evidence), against, because=because
    )
