"""Official checkpoints of self-supervised ViTs, brought to Flax without running anything in them."""

from checkpoints_convert.convert import convert

__all__ = ["convert"]
