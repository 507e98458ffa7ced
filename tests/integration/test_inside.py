"""Runs the tests below `inside/` where they belong: in a light host, against its own bus."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.host.light_host import CHECKOUT, LightHost

HERE = Path(__file__).resolve().parent
FILES = sorted(path.name for path in (HERE / "inside").glob("test_*.py"))


@pytest.mark.parametrize("name", FILES)
def test_inside_a_user_manager(host: LightHost, name: str) -> None:
    done = host.run(
        *("env", "-C", CHECKOUT, sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
        f"tests/integration/inside/{name}",
        env={
            "LABCTL_INSIDE": "1",
            "LABCTL_NO_SKIPS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
        },
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
