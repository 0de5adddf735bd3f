"""House rules: a simulated world for prompts; its actor follows the sentences of its instructions."""

from sgt_modules.embedded.rules.corrector import RulesCorrector
from sgt_modules.embedded.rules.program import list_program
from sgt_modules.embedded.rules.world import RULES_FULL, RULES_QUICK, HouseRulesWorld, RuleSizes

__all__ = ["RULES_FULL", "RULES_QUICK", "HouseRulesWorld", "RuleSizes", "RulesCorrector", "list_program"]
