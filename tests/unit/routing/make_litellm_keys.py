"""Write agent/routing/litellm_keys.py from an installed LiteLLM.

Run it with the Python that has LiteLLM: `python tests/unit/routing/make_litellm_keys.py OUT`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

COSTS = re.compile(r"cost|_per_|^_|federation|keycloak|workload|issuer")
SIMPLE = (bool, int, float, str, list, dict, type(None))
# Read by the proxy itself, not attributes of the module.
PROXY_SETTINGS = {"cache", "cache_params", "callbacks", "guardrails", "json_logs", "responses"}
# Parameters of a request that LiteLLM hands to the backend.
PASSED_ON = (
    "temperature top_p top_k seed stop max_tokens max_completion_tokens n logprobs top_logprobs"
    " logit_bias presence_penalty frequency_penalty response_format tools tool_choice"
    " parallel_tool_calls reasoning_effort thinking keep_alive stream_options"
)

HEAD = '''"""Keys that LiteLLM {version} reads. Made by tests/unit/routing/make_litellm_keys.py."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())

'''


def _read_settings(proxy: Any) -> set[str]:
    """General settings that the proxy reads by name without declaring them."""
    pattern = re.compile(r"""general_settings(?:\.get\(|\[)\s*["'](\w+)["']""")
    sources = Path(proxy.__file__).parent.rglob("*.py")
    return {name for path in sources for name in pattern.findall(path.read_text())}


def main(out: Path) -> None:
    os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION")
    litellm: Any = importlib.import_module("litellm")
    router: Any = importlib.import_module("litellm.types.router")
    utils: Any = importlib.import_module("litellm.types.utils")
    proxy: Any = importlib.import_module("litellm.proxy._types")
    params = {
        "extra_body",
        *router.LiteLLM_Params.model_fields,
        *utils.all_litellm_params,
        *litellm.OPENAI_CHAT_COMPLETION_PARAMS,
    }
    settings = {n for n in dir(litellm) if isinstance(getattr(litellm, n, len), SIMPLE)}
    constants = {n for n in settings if n != n.lower() or n.endswith(("_models", "_providers"))}
    tables = {
        "LITELLM_PARAMS": {name for name in params if not COSTS.search(name)},
        "ROUTER_SETTINGS": set(inspect.signature(litellm.Router.__init__).parameters) - {"self"},
        "GENERAL_SETTINGS": set(proxy.ConfigGeneralSettings.model_fields) | _read_settings(proxy),
        "LITELLM_SETTINGS": {n for n in settings - constants if n[0] != "_"} | PROXY_SETTINGS,
        "LITELLM_FUNCTIONS": {
            name
            for name in ("timeout", "completion", "embedding", "responses", "rerank", "speech")
            if callable(getattr(litellm, name, None))
        },
        "PASSED_ON": set(PASSED_ON.split()),
    }
    version = importlib.metadata.version("litellm")
    text = HEAD.format(version=version)
    for name, keys in tables.items():
        words = textwrap.fill(" ".join(sorted(keys)), 98, break_on_hyphens=False)
        text += f'\n{name} = _words(\n    """\n{words}\n"""\n)\n'
    out.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
