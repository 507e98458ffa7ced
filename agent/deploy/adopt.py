"""Keep what a deploy replaces: a user's own units, byte for byte, with what ran of them."""

from __future__ import annotations

from dataclasses import replace

from agent import __version__
from agent.deploy.placements import Adoption, Placements
from agent.deploy.ports import Ports
from agent.deploy.store import Store
from agent.model.generation import Generation, GenerationKind, Manifest, ServiceSpec
from agent.model.host import Observed
from agent.model.plan import Rendered


class Adopter:
    """Seals an adopted generation when a deploy would replace something that none holds yet.

    The first deploy always adopts, also when there is nothing: generation 0 says so. Later ones
    adopt when a foreign unit file stands, or a foreign unit runs, where the lab now wants one.
    """

    def __init__(self, ports: Ports, store: Store, placements: Placements) -> None:
        self._ports = ports
        self._store = store
        self._placements = placements

    def __call__(
        self, rendered: Rendered, observed: Observed, current: Generation | None
    ) -> Generation:
        """What `current` names afterwards: an adopted generation, or what it named before."""
        found = self._placements.foreign(rendered.links, current)
        foreign = self._foreign_units(rendered, observed, current, found)
        if current is not None and not found.paths and not any(spec.active for spec in foreign):
            return current
        base = current.manifest if current else None
        kept_anew = {file.path for file in found.files}
        files = self._store.files(current) if current else ()
        files = tuple(file for file in files if file.path not in kept_anew)
        adopted = self._store.seal(self._manifest(base, found, foreign), (*files, *found.files))
        self._store.point(adopted)
        kept = ", ".join(found.paths) if found.paths else "nothing stood in the way"
        self._ports.reporter.step(
            "adopt",
            f"kept what was there as generation {adopted.number}: {kept}",
            generation=adopted.number,
        )
        return adopted

    def _foreign_units(
        self,
        rendered: Rendered,
        observed: Observed,
        current: Generation | None,
        found: Adoption,
    ) -> tuple[ServiceSpec, ...]:
        """The wanted units that were not ours until now, as they stand."""
        known = {spec.unit for spec in current.manifest.services} if current else set()
        specs = []
        for spec in rendered.services:
            replaced = any(path.endswith(f"/{spec.unit}") for path in found.paths)
            if spec.unit in known and not replaced:
                continue
            state = observed.unit(spec.unit)
            listens = self._ports.processes.listens(state) if state.running else ()
            specs.append(
                ServiceSpec(
                    name=spec.name,
                    unit=spec.unit,
                    kind=None,
                    active=state.running,
                    listens=listens,
                )
            )
        return tuple(specs)

    def _manifest(
        self, base: Manifest | None, found: Adoption, foreign: tuple[ServiceSpec, ...]
    ) -> Manifest:
        """What stands now: the current generation, with the foreign things in their places."""
        now = self._ports.clock.now().isoformat(timespec="seconds")
        blank = Manifest(
            number=0,
            created_at=now,
            kind=GenerationKind.ADOPTED,
            reason="what stood here before labctl replaced it",
            digest=f"adopted {now}",
            links=found.links,
            host_files=found.host_files,
            services=foreign,
            labctl_version=__version__,
        )
        if base is None:
            return blank
        replaced = {spec.unit for spec in foreign}
        return replace(
            blank,
            links=(*(p for p in base.links if p.path not in found.paths), *found.links),
            host_files=(
                *(p for p in base.host_files if p.path not in found.paths),
                *found.host_files,
            ),
            services=(*(s for s in base.services if s.unit not in replaced), *foreign),
            groups=base.groups,
            judge=base.judge,
        )
