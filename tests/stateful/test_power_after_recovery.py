"""A kill, a recovery, and then a power loss: what recovery left must be durable as well."""

from __future__ import annotations

import pytest

from tests.fault.invariants import attempt
from tests.fault.test_every_operation import (
    LINE_IDS,
    LINES,
    Line,
    _assert_old_or_new,
    _played,
    _recovered,
)


@pytest.mark.parametrize("line", LINES, ids=LINE_IDS)
def test_what_a_recovery_leaves_survives_a_power_loss(line: Line) -> None:
    index = 0
    while True:
        host = _played(line)
        host.disk.arm(crash_at=index)
        if attempt(lambda host=host: line.act(host)) is None:
            break
        _recovered(host)
        host.reboot()
        _recovered(host)
        _assert_old_or_new(host, line)
        index += 1
    assert index > 20
