"""Environment files and argument words, read back by systemd's own rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deploy.environment import backend_environment, environment_file, join_args
from agent.model.kinds import ServiceKind
from tests.fakes.labs import service

# What systemd accepts in a value: any text without control characters, tabs and line feeds apart.
values = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n\"'\\$` #;"), max_size=30
)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)


def parse_environment_file(text: str) -> dict[str, str]:
    """systemd 252's `parse_env_file_internal`, for the forms `NAME="..."`, with every escape."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        name, _, _ = text[at:].partition("=")
        at += len(name) + 1
        assert text[at] == '"', "every value is quoted"
        at += 1
        value = ""
        while text[at] != '"':
            if text[at] == "\\":
                at += 1
                if text[at] in '"\\`$':
                    value += text[at]
                elif text[at] != "\n":
                    value += "\\" + text[at]
            else:
                value += text[at]
            at += 1
        assert text[at + 1] == "\n", "nothing follows the closing quote"
        at += 2
        found[name] = value
    return found


def split_words(text: str) -> list[str]:
    """systemd 252's `extract_first_word` with EXTRACT_UNQUOTE | EXTRACT_RELAX, at white space."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
            word = (word or "") + text[at]
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = (word or "") + char
        elif char in "\"'":
            quote, word = char, word or ""
        elif char in " \t\n\r":
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + char
        at += 1
    assert not quote, "every quote is closed"
    return [*words, word] if word is not None else words


@given(st.dictionaries(names, values, max_size=5))
def test_an_environment_file_reads_back(environment: dict[str, str]) -> None:
    text = environment_file(environment)
    assert parse_environment_file(text) == environment
    assert environment_file(dict(reversed(environment.items()))) == text


@given(st.lists(values, max_size=6))
def test_arguments_read_back(args: list[str]) -> None:
    assert split_words(join_args(args)) == args


@given(st.lists(values, max_size=4))
def test_arguments_read_back_out_of_an_environment_file(args: list[str]) -> None:
    text = environment_file({"LABCTL_ARGS": join_args(args)})
    assert split_words(parse_environment_file(text)["LABCTL_ARGS"]) == args


@pytest.mark.parametrize(
    ("args", "joined"),
    [
        ((), ""),
        (("--flash-attn", "on"), "--flash-attn on"),
        (("",), '""'),
        (("a b", 'say "hi"'), '"a b" "say \\"hi\\""'),
        (("C:\\x", "it's"), '"C:\\\\x" "it\'s"'),
    ],
)
def test_words_are_quoted_only_where_they_have_to_be(args: tuple[str, ...], joined: str) -> None:
    assert join_args(args) == joined


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            ServiceKind.OLLAMA,
            {
                "OLLAMA_HOST": "127.0.0.1:8080",
                "OLLAMA_CONTEXT_LENGTH": "4096",
                "OLLAMA_NUM_PARALLEL": "2",
                "LABCTL_ARGS": "--x",
            },
        ),
        (
            ServiceKind.LLAMACPP_PYTHON,
            {
                "HOST": "127.0.0.1",
                "PORT": "8080",
                "INTERRUPT_REQUESTS": "false",
                "MODEL": "/models/alpha.gguf",
                "MODEL_ALIAS": "model-alpha",
                "N_CTX": "4096",
                "N_THREADS": "8",
                "N_GPU_LAYERS": "-1",
                "LABCTL_ARGS": "--x",
            },
        ),
        (
            ServiceKind.LLAMACPP_NATIVE,
            {
                "LLAMA_ARG_HOST": "127.0.0.1",
                "LLAMA_ARG_PORT": "8080",
                "LLAMA_ARG_MODEL": "/models/alpha.gguf",
                "LLAMA_ARG_ALIAS": "model-alpha",
                "LLAMA_ARG_CTX_SIZE": "4096",
                "LLAMA_ARG_N_PARALLEL": "2",
                "LLAMA_ARG_THREADS": "8",
                "LLAMA_ARG_N_GPU_LAYERS": "all",
                "LABCTL_ARGS": "--x",
            },
        ),
        (
            ServiceKind.VLLM,
            {
                "VLLM_NO_USAGE_STATS": "1",
                "LABCTL_ARGS": "/models/alpha.gguf --host 127.0.0.1 --port 8080"
                " --served-model-name model-alpha --max-model-len 4096 --x",
            },
        ),
    ],
)
def test_the_variables_of_each_kind(kind: ServiceKind, expected: dict[str, str]) -> None:
    asked = service(
        "alpha", 8080, kind=kind, context=4096, slots=2, threads=8, gpu_layers="all", args=("--x",)
    )
    assert backend_environment(asked, {}) == expected


@pytest.mark.parametrize("kind", [k for k in ServiceKind if k is not ServiceKind.LITELLM])
def test_what_a_lab_leaves_open_is_left_to_the_backend(kind: ServiceKind) -> None:
    bare = service("alpha", 8080, kind=kind, model_file=None, model_name=None)
    assert "None" not in "".join(backend_environment(bare, {}).values())


def test_the_lab_has_the_last_word() -> None:
    own = service("alpha", 8080, environment=(("LLAMA_ARG_PORT", "9"), ("EXTRA", "1")))
    environment = backend_environment(own, {})
    assert (environment["LLAMA_ARG_PORT"], environment["EXTRA"]) == ("9", "1")


def test_a_count_of_layers_stays_a_count() -> None:
    python = replace(
        service("alpha", 1, gpu_layers=0), kind=ServiceKind.LLAMACPP_PYTHON, context=None
    )
    assert backend_environment(python, {})["N_GPU_LAYERS"] == "0"
