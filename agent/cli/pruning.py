"""Keep the store at the size that the lab asks for, after a deploy."""

from __future__ import annotations

from agent.cli.host import Host
from agent.cli.output import tell
from agent.model.errors import DiskFailure


def prune_quietly(host: Host, keep: int) -> None:
    """Remove what `keep_generations` leaves over. A failure is said, and fails nothing."""
    try:
        for generation in host.store.prunable(keep):
            host.store.remove(generation)
    except DiskFailure as error:
        tell(f"note: old generations were not pruned: {error.message}")
