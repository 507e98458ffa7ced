"""Goldens of every kind's files; what counts as a change and what does not; where secrets go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.deploy.codec import encode
from agent.deploy.render import Surroundings, render
from agent.model.generation import GenerationKind, Manifest
from agent.model.kinds import ServiceKind
from agent.model.lab import Lab, Source
from agent.model.plan import Rendered
from agent.model.routing import Deployment, GatewayDocument, Group, GroupOrigin, RoutingTable
from tests.fakes.host import PATHS
from tests.fakes.labs import AT, KEY, UNIT_TEXT, A, B, lab, rendered, service, table

SECRET = "sk-very-secret"
BACKEND_SECRET = "sk-backend-secret"
SECRETS = f"LITELLM_MASTER_KEY={SECRET}\nALPHA_KEY={BACKEND_SECRET}\n".encode()

AROUND = Surroundings(
    paths=PATHS,
    unit_texts={kind: UNIT_TEXT.format(kind=kind) for kind in ServiceKind},
    program_folders={"alpha": "/opt/llama/bin"},
    fingerprints={"alpha": "12 bytes"},
    gateway_environment=(("LITELLM_LOG", "ERROR"),),
    secrets=SECRETS,
    secret_values={"LITELLM_MASTER_KEY": SECRET, "ALPHA_KEY": BACKEND_SECRET},
    digest_key=KEY,
)
DOCUMENT = GatewayDocument(text="# made by labctl\nmodel_list: []\n", body="model_list: []\n")
KEYED = replace(A, api_key_variable="ALPHA_KEY")


def made(
    wanted: Lab | None = None,
    around: Surroundings = AROUND,
    document: GatewayDocument = DOCUMENT,
) -> Rendered:
    wanted = wanted if wanted is not None else lab(KEYED, B)
    return render(wanted, table(*wanted.services), document, around)


def text_of(files: Rendered, path: str) -> str:
    (data,) = (file.data for file in files.files if file.path == path)
    return data.decode()


def sealed(files: Rendered) -> str:
    """The manifest as it would be written."""
    manifest = Manifest(
        0,
        "",
        GenerationKind.DEPLOY,
        "",
        files.digest,
        links=files.links,
        services=files.services,
        groups=files.groups,
        completions=files.completions,
    )
    return encode(manifest).decode()


# -- goldens -------------------------------------------------------------------------------------

ARGS = 'LABCTL_ARGS=""\n'
PATH = 'PATH="/usr/local/bin:/usr/bin:/bin"\n'


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (ServiceKind.OLLAMA, "", 'OLLAMA_HOST="127.0.0.1:8081"\n' + PATH),
        (
            ServiceKind.LLAMACPP_PYTHON,
            'HOST="127.0.0.1"\nINTERRUPT_REQUESTS="false"\n',
            'MODEL="/models/beta.gguf"\nMODEL_ALIAS="model-beta"\n' + PATH + 'PORT="8081"\n',
        ),
        (
            ServiceKind.LLAMACPP_NATIVE,
            "",
            'LLAMA_ARG_ALIAS="model-beta"\nLLAMA_ARG_HOST="127.0.0.1"\n'
            'LLAMA_ARG_MODEL="/models/beta.gguf"\nLLAMA_ARG_PORT="8081"\n' + PATH,
        ),
        (ServiceKind.VLLM, "", PATH + 'VLLM_NO_USAGE_STATS="1"\n'),
    ],
)
def test_the_environment_of_each_kind(kind: ServiceKind, before: str, after: str) -> None:
    files = made(lab(replace(B, kind=kind)))
    (spec,) = (s for s in files.services if s.name == "beta")
    args = ARGS
    if kind is ServiceKind.VLLM:
        args = (
            'LABCTL_ARGS="/models/beta.gguf --host 127.0.0.1 --port 8081'
            ' --served-model-name model-beta"\n'
        )
    expected = f'{before}{args}LABCTL_INPUTS="{spec.inputs}"\n{after}'
    assert text_of(files, "env/beta.env") == expected
    assert text_of(files, "units/beta.service") == UNIT_TEXT.format(kind=kind)
    assert text_of(files, "dropins/beta.conf") == (
        "# What the lab sets for beta. Written by labctl.\n"
    )


def test_the_environment_of_the_gateway() -> None:
    files = made()
    (spec,) = (s for s in files.services if s.is_gateway)
    assert text_of(files, "env/litellm.env") == (
        f'CONFIG_FILE_PATH="{PATHS.state}/current/litellm.yaml"\n'
        'HOST="127.0.0.1"\n'
        'LABCTL_ARGS=""\n'
        f'LABCTL_INPUTS="{spec.inputs}"\n'
        'LITELLM_LOG="ERROR"\n'
        'PATH="/usr/local/bin:/usr/bin:/bin"\n'
        'PORT="4000"\n'
    )
    assert text_of(files, "litellm.yaml") == DOCUMENT.text


def test_limits_and_relations_go_into_the_drop_in() -> None:
    one = replace(A, memory_max="24G", exclusive="gpu")
    other = replace(B, exclusive="gpu", enabled=False)
    files = made(lab(one, other))
    assert text_of(files, "dropins/alpha.conf") == (
        "# What the lab sets for alpha. Written by labctl.\n"
        "[Unit]\nConflicts=beta.service\n[Service]\nMemoryMax=24G\n"
    )


def test_the_files_and_links_of_a_deploy() -> None:
    files = made()
    assert [file.path for file in files.files] == [
        "units/alpha.service",
        "dropins/alpha.conf",
        "env/alpha.env",
        "secrets/alpha.env",
        "units/beta.service",
        "dropins/beta.conf",
        "env/beta.env",
        "units/litellm.service",
        "dropins/litellm.conf",
        "env/litellm.env",
        "secrets/litellm.env",
        "litellm.yaml",
        "secrets.env",
        "lab/providers.yaml",
    ]
    units, current = PATHS.units, f"{PATHS.state}/current"
    assert [(link.path, link.target) for link in files.links[:3]] == [
        (f"{units}/alpha.service", f"{current}/units/alpha.service"),
        (f"{units}/alpha.service.d/50-labctl.conf", f"{current}/dropins/alpha.conf"),
        (f"{units}/default.target.wants/alpha.service", "../alpha.service"),
    ]
    assert len(files.links) == 9
    assert {file.mode for file in files.files} == {0o600}


def test_promises_of_a_deploy() -> None:
    files = made()
    assert [(c.group, c.service, c.model) for c in files.completions] == [
        ("model-alpha", "alpha", "model-alpha"),
        ("model-beta", "beta", "model-beta"),
    ]
    assert [s.serves for s in files.services] == [
        ("model-alpha",),
        ("model-beta",),
        ("model-alpha", "model-beta"),
    ]
    (alpha, *_) = files.services
    assert [what for what, _ in alpha.components] == [
        "unit",
        "drop-in",
        "environment",
        "model file",
        "secrets",
    ]


@pytest.mark.parametrize(
    ("listens", "probed"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("localhost", "127.0.0.1"), ("10.0.0.4", "10.0.0.4")],
)
def test_a_wildcard_is_probed_on_loopback(listens: str, probed: str) -> None:
    assert made(lab(replace(A, host=listens))).services[0].host == probed


def test_a_group_of_a_cloud_and_a_local_provider_says_so() -> None:
    routes = RoutingTable(
        (
            Group(
                "mixed",
                AT,
                GroupOrigin.BALANCE,
                (
                    Deployment("mixed", "alpha", "model-alpha", "alpha", 0.5),
                    Deployment("mixed", "openai", "gpt", None, 0.5),
                ),
            ),
        )
    )
    files = render(lab(A), routes, DOCUMENT, AROUND)
    assert (files.groups[0].services, files.groups[0].remote) == (("alpha",), True)
    assert [c.group for c in files.completions] == ["mixed"], "a cloud model is never asked"


def test_without_a_gateway_there_is_no_config_and_no_completion() -> None:
    wanted = lab(A)
    wanted = replace(wanted, gateway=replace(wanted.gateway, enabled=False))
    files = made(wanted)
    assert [s.name for s in files.services] == ["alpha"]
    assert "litellm.yaml" not in [file.path for file in files.files]


# -- what counts as a change ---------------------------------------------------------------------


def test_rendering_is_deterministic() -> None:
    assert made() == made()


def test_a_comment_in_a_source_or_in_the_config_changes_no_digest() -> None:
    plain = made()
    commented = made(
        replace(lab(KEYED, B), sources=(Source("providers.yaml", "# new\nproviders: {}\n"),)),
        document=replace(DOCUMENT, text="# made later\nmodel_list: []\n"),
    )
    assert commented.digest == plain.digest
    assert commented.services == plain.services
    assert commented.files != plain.files, "the sources are kept as they are"


def _inputs(files: Rendered) -> dict[str, str]:
    return {spec.name: spec.inputs for spec in files.services}


def _unit_text(kind: ServiceKind) -> Callable[[], Rendered]:
    texts = {**AROUND.unit_texts, kind: "# Managed by labctl.\n[Service]\nNice=5\n"}
    return lambda: made(around=replace(AROUND, unit_texts=texts))


CHANGES: list[tuple[str, Callable[[], Rendered], set[str]]] = [
    ("context", lambda: made(lab(replace(KEYED, context=8), B)), {"alpha"}),
    ("memory limit", lambda: made(lab(KEYED, replace(B, memory_max="1G"))), {"beta"}),
    ("environment", lambda: made(lab(KEYED, replace(B, environment=(("X", "1"),)))), {"beta"}),
    (
        "model file's content",
        lambda: made(around=replace(AROUND, fingerprints={"alpha": "13 bytes"})),
        {"alpha"},
    ),
    (
        "program",
        lambda: made(around=replace(AROUND, program_folders={"beta": "/opt/b"})),
        {"alpha", "beta"},
    ),
    ("unit of the gateway", _unit_text(ServiceKind.LITELLM), {"litellm"}),
    ("unit of the backends", _unit_text(ServiceKind.LLAMACPP_NATIVE), {"alpha", "beta"}),
    (
        "gateway config",
        lambda: made(document=GatewayDocument("model_list: [x]\n", "model_list: [x]\n")),
        {"litellm"},
    ),
    (
        "master key",
        lambda: made(around=replace(AROUND, secrets=SECRETS + b"OTHER=1\n")),
        {"litellm"},
    ),
    (
        "key of a backend",
        lambda: made(
            around=replace(AROUND, secret_values={**AROUND.secret_values, "ALPHA_KEY": "other"})
        ),
        {"alpha"},
    ),
]


@pytest.mark.parametrize(
    ("change", "restarted"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES]
)
def test_a_change_reaches_only_the_units_that_read_it(
    change: Callable[[], Rendered], restarted: set[str]
) -> None:
    before, after = made(), change()
    old, new = _inputs(before), _inputs(after)
    assert {name for name in old if old[name] != new[name]} == restarted
    assert before.digest != after.digest


def test_whether_a_service_is_required_restarts_nothing_but_is_deployed() -> None:
    before, after = made(), made(lab(KEYED, replace(B, required=False)))
    assert _inputs(before) == _inputs(after)
    assert before.digest != after.digest


# -- secrets -------------------------------------------------------------------------------------


def test_secret_values_are_in_secret_files_alone() -> None:
    files = made()
    for value in (SECRET, BACKEND_SECRET):
        holding = {file.path for file in files.files if value.encode() in file.data}
        assert holding
        assert holding == {f.path for f in files.files if f.secret and value.encode() in f.data}
        assert value not in sealed(files)
        plain = hashlib.sha256(SECRETS).hexdigest()
        assert plain not in sealed(files), "an unkeyed digest would let it be guessed"
        assert value not in repr(AROUND)
    assert text_of(files, "secrets/alpha.env") == f'LLAMA_API_KEY="{BACKEND_SECRET}"\n'
    assert SECRET not in text_of(files, "secrets/alpha.env"), "no other secret"


def test_a_file_of_secrets_has_a_repr_without_them() -> None:
    files = made()
    assert SECRET not in repr(files)


def test_without_secrets_there_is_no_secret_file() -> None:
    files = rendered(A, B, secrets=b"")
    assert [file.path for file in files.files if file.secret] == []


def test_ollama_demands_no_key() -> None:
    files = made(lab(service("alpha", 1, kind=ServiceKind.OLLAMA, api_key_variable="ALPHA_KEY")))
    assert "secrets/alpha.env" not in [file.path for file in files.files]
