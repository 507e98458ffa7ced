"""The engine's view of the GPUs: NVML, the units' first journal lines, and the pure proof."""

from __future__ import annotations

import json

from agent.cli.gpus import read_gpus
from agent.gpu.ledger import Holding, waiting_for
from agent.gpu.log_lines import parse_load_log
from agent.gpu.ollama_proof import OllamaModel, prove_ollama
from agent.gpu.proof import held_by, prove
from agent.host.cgroup import pids_in
from agent.host.http import NoAnswer, ask
from agent.host.load_log import first_lines
from agent.model.generation import ServiceSpec
from agent.model.gpu import GpuReading
from agent.model.host import UnitState
from agent.model.kinds import ServiceKind
from agent.model.placed import OffloadProof, ServicePlacement

CLAIM_TIMEOUT_S = 2.0


class HostOffload:
    """Reads the GPUs anew at each question."""

    def waiting_for(self, placed: ServicePlacement) -> tuple[str, ...]:
        return waiting_for(placed, read_gpus()) if placed.on_gpu else ()

    def proof(self, placed: ServicePlacement, state: UnitState) -> OffloadProof:
        reading = read_gpus()
        log = parse_load_log(first_lines(state.invocation))
        held = held_by(reading, processes_of(state), placed.gpus)
        return prove(placed, log, held, {gpu.uuid: gpu.pci for gpu in reading.gpus})

    def claim(self, service: ServiceSpec, state: UnitState) -> OffloadProof | None:
        loaded = _loaded(service) if service.kind is ServiceKind.OLLAMA else ()
        if not loaded:
            return None
        reading = read_gpus()
        uuids = [gpu.uuid for gpu in reading.usable]
        return prove_ollama(service.name, loaded, held_by(reading, processes_of(state), uuids))


def _loaded(service: ServiceSpec) -> tuple[OllamaModel, ...]:
    """What `/api/ps` lists; it loads nothing. Empty when it does not answer as it should."""
    if service.port is None:
        return ()
    try:
        answer = ask(service.host, service.port, "/api/ps", timeout_s=CLAIM_TIMEOUT_S)
        rows = json.loads(answer.body)["models"]
        return tuple(
            OllamaModel(str(row["name"]), int(row["size"]), int(row["size_vram"])) for row in rows
        )
    except (NoAnswer, ValueError, KeyError, TypeError):
        return ()


def processes_of(state: UnitState) -> frozenset[int]:
    """The pids of a unit: of its control group where that can be read, else its main process."""
    pids = pids_in(state.control_group) if state.control_group else None
    return frozenset(pids or ([state.main_pid] if state.main_pid else []))


def holdings(reading: GpuReading, states: dict[str, UnitState]) -> tuple[Holding, ...]:
    """What running units of ours hold now, by service name, where the driver tells."""
    held = []
    for unit, state in states.items():
        used = reading.used_by(processes_of(state)) if state.running else {}
        known = {uuid: mib for uuid, mib in used.items() if mib is not None}
        if known:
            held.append(Holding(unit.removesuffix(".service"), known))
    return tuple(held)
