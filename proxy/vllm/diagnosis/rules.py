"""The table of rules, most specific first.

Every text was recorded from vLLM 0.32 on CPU, but for those marked [C]: read in source.
"""

from __future__ import annotations

from proxy.vllm.diagnosis.machine_rules import MACHINE_RULES, RUN_RULES
from proxy.vllm.diagnosis.model_rules import IMPORT_RULES, MODEL_RULES
from proxy.vllm.diagnosis.rule import Rule
from proxy.vllm.diagnosis.settings_rules import SETTING_RULES

START_RULES: tuple[Rule, ...] = (
    *SETTING_RULES,
    *MODEL_RULES,
    *MACHINE_RULES,
    *IMPORT_RULES,
)
"""For an engine that has not served yet; all its errors are looked at."""

__all__ = ["RUN_RULES", "START_RULES"]
