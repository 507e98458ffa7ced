"""Small labs for the engine's tests, rendered by the real renderer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.deploy.render import Surroundings, render
from agent.model.finding import Position
from agent.model.lab import (
    DeploySettings,
    Gateway,
    Lab,
    Provider,
    ProviderModel,
    ProviderStatus,
    ProviderType,
    Service,
    ServiceKind,
    Source,
)
from agent.model.plan import Rendered
from agent.model.routing import Deployment, GatewayDocument, Group, GroupOrigin, RoutingTable
from tests.fakes.host import PATHS

AT = Position("lab.yaml", 1, 1)
KEY = b"k" * 32
UNIT_TEXT = "# Managed by labctl.\n[Service]\nExecStart=/usr/bin/env {kind}\n"


def service(name: str, port: int, **changes: object) -> Service:
    base = Service(
        name=name,
        at=AT,
        kind=ServiceKind.LLAMACPP_NATIVE,
        port=port,
        model_file=f"/models/{name}.gguf",
        model_name=f"model-{name}",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def lab(*services: Service, soak_s: float = 1.0) -> Lab:
    providers = tuple(
        Provider(
            name=s.name,
            at=AT,
            type=ProviderType.LLAMA_CPP,
            base_url=f"http://127.0.0.1:{s.port}",
            status=ProviderStatus.ACTIVE,
            models=(ProviderModel(s.model_name or s.name, AT),),
            service=s.name,
        )
        for s in services
    )
    return Lab(
        directory="/home/lab/.config/labctl",
        declared=True,
        sources=(Source("providers.yaml", "providers: {}\n"),),
        providers=providers,
        services=services,
        routes=(),
        chains=(),
        default_chain=None,
        capabilities=(),
        balances=(),
        gateway=Gateway(at=AT),
        deploy=DeploySettings(soak_s=soak_s, start_timeout_s=60.0, stall_timeout_s=10.0),
    )


def table(*services: Service, chained: bool = True) -> RoutingTable:
    """One group a service; with `chained`, each falls back to the next."""
    names = [f"model-{s.name}" for s in services]
    groups = tuple(
        Group(
            name=name,
            at=AT,
            origin=GroupOrigin.MODEL,
            deployments=(Deployment(name, s.name, s.model_name or s.name, s.name),),
            chain=tuple(names[i + 1 : i + 2]) if chained else (),
        )
        for i, (name, s) in enumerate(zip(names, services, strict=True))
    )
    return RoutingTable(groups)


def rendered(
    *services: Service,
    config: str = "model_list: []\n",
    secrets: bytes = b"LITELLM_MASTER_KEY=sk-test\n",
    fingerprints: Mapping[str, str] | None = None,
    chained: bool = True,
    soak_s: float = 1.0,
) -> Rendered:
    desired = lab(*services, soak_s=soak_s)
    around = Surroundings(
        paths=PATHS,
        unit_texts={kind: UNIT_TEXT.format(kind=kind) for kind in ServiceKind},
        fingerprints=fingerprints or {},
        secrets=secrets,
        secret_values={"LITELLM_MASTER_KEY": "sk-test"},
        digest_key=KEY,
    )
    document = GatewayDocument(text=f"# generated\n{config}", body=config)
    return render(desired, table(*services, chained=chained), document, around)


A, B = service("alpha", 8080), service("beta", 8081)
FIRST = rendered(A, B)
SECOND = rendered(replace(A, context=4096), B, config="model_list: [changed]\n")
