"""Which token of a frozen Vision Transformer, at which layer, carries which visual concept."""

from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.probes.templates import Templates, load_templates
from vitprobe_jax.version import __version__

__all__ = ["Backbone", "Templates", "__version__", "load_backbone", "load_templates"]
