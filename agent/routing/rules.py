"""Every rule about routing that `labctl check` runs over a lab and its table.

`agent.routing.rules_resolution` has two more: `build_table` itself reports those.
"""

from __future__ import annotations

from agent.model.rule import Rule
from agent.routing.options import unusable_option
from agent.routing.rules_chains import CHAIN_RULES
from agent.routing.rules_references import REFERENCE_RULES
from agent.routing.rules_resilience import RESILIENCE_RULES

RULES: tuple[Rule, ...] = (
    *REFERENCE_RULES,
    *CHAIN_RULES,
    *RESILIENCE_RULES,
    unusable_option,
)
