"""Which token of a frozen Vision Transformer, at which layer, carries which visual concept."""

from vitprobe_jax.version import __version__ as __version__
