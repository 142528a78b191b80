"""The parts of the study: one file a part, each with its `PART`."""

from experiments.aggregate.parts import attention, localisation, probing, untrained
from experiments.measuring import Part

PARTS: dict[str, Part] = {module.PART.name: module.PART for module in (attention, probing, untrained, localisation)}

__all__ = ["PARTS"]
