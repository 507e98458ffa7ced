"""Rules about what is left of a chain when one thing fails, and about where requests end up."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.finding import Position, Severity
from agent.model.routing import Deployment, Group, RoutingTable
from agent.model.rule import Complaint, Rule, Subject, rule
from agent.routing.chains import walk
from agent.routing.names import counted, quoted


@rule(
    "spof",
    Severity.WARNING,
    "A chain protects only against what its members do not share.",
)
def spof(subject: Subject) -> Iterator[Complaint]:
    """Single points of failure: what all members of a chain share, or all that are left offline.

    Example: three chains that end at one Ollama once the cloud is out of reach. That a whole
    chain is on this host is only a note: a lab is one host.
    """
    chained = [group for group in subject.table.groups if group.chain]
    yield from _shared_provider(subject, chained)
    yield from _tail(subject, chained)
    yield from _shared_gpu(subject, chained)
    yield from _shared_host(subject, chained)


def _reached(subject: Subject, group: Group) -> tuple[Deployment, ...]:
    """Every deployment that a request for the group may end up at, the group's own first."""
    names = walk(subject.table, group.name, subject.lab.gateway.max_fallbacks)
    groups = (subject.table.group(name) for name in names)
    return tuple(d for each in groups if each is not None for d in each.deployments)


def _place(subject: Subject, groups: list[Group]) -> Position:
    """Where the first of these chains is written."""
    names = {group.name for group in groups}
    chain = next((chain for chain in subject.lab.chains if chain.group in names), None)
    return chain.at if chain is not None else groups[0].at


def _shared_provider(subject: Subject, chained: list[Group]) -> Iterator[Complaint]:
    """Chains whose every member is served by one provider, or by one unit behind several."""
    by_provider: dict[str, list[Group]] = {}
    by_service: dict[str, list[Group]] = {}
    for group in chained:
        reached = _reached(subject, group)
        providers = {d.provider for d in reached}
        services = {d.service for d in reached}
        if len(providers) == 1:
            by_provider.setdefault(providers.pop(), []).append(group)
        elif len(services) == 1 and None not in services:
            by_service.setdefault(str(services.pop()), []).append(group)
    hint = "add a model of another provider to the chain"
    for provider, groups in by_provider.items():
        message = f"every member of {_chains(groups)} is served by the provider `{provider}` alone"
        yield Complaint(_place(subject, groups), message, hint)
    for service, groups in by_service.items():
        message = f"every member of {_chains(groups)} is served by the unit `{service}` alone"
        yield Complaint(_place(subject, groups), message, hint)


def _tail(subject: Subject, chained: list[Group]) -> Iterator[Complaint]:
    """What is left of chains that cross the network, once the network is out."""
    nothing: list[Group] = []
    single: dict[str, list[Group]] = {}
    for group in chained:
        reached = _reached(subject, group)
        local = {d.provider for d in reached if _is_local(subject, d)}
        remote = {d.provider for d in reached if not _is_local(subject, d)}
        if remote and len(remote | local) > 1 and not local:
            nothing.append(group)
        elif remote and len(local) == 1:
            single.setdefault(local.pop(), []).append(group)
    if nothing:
        message = f"when the network is out, nothing is left of {_chains(nothing)}"
        yield Complaint(_place(subject, nothing), message, "end them with a local model")
    for provider, groups in single.items():
        message = (
            f"the last resort of {_chains(groups)} is the single provider `{provider}`:"
            " when the network is out, nothing else is left"
        )
        hint = "end them with a model of another local provider as well"
        yield Complaint(_place(subject, groups), message, hint)


def _shared_gpu(subject: Subject, chained: list[Group]) -> Iterator[Complaint]:
    """Chains of several providers whose every member needs one and the same GPU."""
    by_gpu: dict[str, list[Group]] = {}
    for group in chained:
        gpu = _one_gpu(subject, _reached(subject, group))
        if gpu:
            by_gpu.setdefault(gpu, []).append(group)
    for gpu, groups in by_gpu.items():
        message = f"every member of {_chains(groups)} needs {gpu}: lost, it takes all with it"
        hint = "end them with a cloud model, or with a service that has `gpu_layers: 0`"
        yield Complaint(_place(subject, groups), message, hint)


def _one_gpu(subject: Subject, reached: tuple[Deployment, ...]) -> str:
    """The one GPU that deployments of several providers need; empty when there is no such."""
    gpus = {_gpu(subject, deployment) for deployment in reached}
    several = len({deployment.provider for deployment in reached}) > 1
    return gpus.pop() if several and len(gpus) == 1 else ""


def _gpu(subject: Subject, deployment: Deployment) -> str:
    """The GPU that a deployment's service needs; empty when it needs none or nobody knows."""
    service = subject.lab.service(deployment.service) if deployment.service else None
    if service is None or service.gpu_layers == 0:
        return ""
    pinned = dict(service.environment).get("CUDA_VISIBLE_DEVICES")
    if pinned is not None:
        return f"the GPU {pinned}" if pinned and "," not in pinned else ""
    return "the only GPU of this host" if subject.facts.gpus == 1 else ""


def _shared_host(subject: Subject, chained: list[Group]) -> Iterator[Complaint]:
    """Chains that never leave this host, though several providers serve them."""
    here = []
    for group in chained:
        reached = _reached(subject, group)
        local = all(_is_local(subject, d) for d in reached)
        several = len({d.provider for d in reached}) > 1
        if local and several and not _one_gpu(subject, reached):
            here.append(group)
    if here:
        message = f"{_chains(here)} live{'s' if len(here) == 1 else ''} on this host alone"
        hint = "fine if nothing shall leave the host; otherwise end them with a cloud model"
        yield Complaint(_place(subject, here), message, hint, Severity.NOTE)


def _is_local(subject: Subject, deployment: Deployment) -> bool:
    provider = subject.lab.provider(deployment.provider)
    return deployment.service is not None or (provider is not None and provider.local)


def _chains(groups: list[Group]) -> str:
    """`2 chains (`a` and `b`)`."""
    return f"{counted(len(groups), 'chain')} ({quoted(group.name for group in groups)})"


@rule(
    "cloud-leak",
    Severity.WARNING,
    "What a user sends to a local model leaves the host when that model fails.",
)
def cloud_leak(subject: Subject) -> Iterator[Complaint]:
    """The chain of a local model reaches a cloud provider.

    Example: `llama3.1:latest: {chain: [gpt-oss:20b-cloud]}`.
    """
    leaks: dict[str, list[Group]] = {}
    for group in subject.table.groups:
        if not all(_is_local(subject, d) for d in group.deployments):
            continue
        remote = (d.provider for d in _reached(subject, group) if not _is_local(subject, d))
        first = next(remote, None)
        if first is not None:
            leaks.setdefault(first, []).append(group)
    for provider, groups in leaks.items():
        ways = ", ".join(f"`{g.name}` → `{_exit(subject, g, subject.table)}`" for g in groups)
        message = f"{_models(groups)} can end up at the cloud provider `{provider}`: {ways}"
        hint = "if prompts must not leave the host, keep cloud models out of these chains"
        yield Complaint(_place(subject, groups), message, hint)


def _models(groups: list[Group]) -> str:
    return f"requests for {counted(len(groups), 'local model')}"


def _exit(subject: Subject, group: Group, table: RoutingTable) -> str:
    """The first group of the walk that is not all local."""
    names = walk(table, group.name, subject.lab.gateway.max_fallbacks)
    groups = (table.group(name) for name in names)
    return next(
        each.name
        for each in groups
        if each is not None and not all(_is_local(subject, d) for d in each.deployments)
    )


RESILIENCE_RULES: tuple[Rule, ...] = (spof, cloud_leak)
