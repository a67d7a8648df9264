"""Attack: how far small perturbations that were made to mislead a network lower its accuracy, in FP32 and in INT8."""

from edgeopt.attack.measuring import Attacked, measure_attacks

__all__ = ["Attacked", "measure_attacks"]
