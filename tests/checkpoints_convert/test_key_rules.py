"""Key rules say which tensors make up a parameter, and what a tensor is: the two must be each other's inverse."""

import dataclasses
import itertools

import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints_convert.layouts import layouts
from checkpoints_convert.leaves import Sizes, decoder_leaves, encoder_leaves
from vitprobe_jax.backbones.config import sized
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.vit import param_shapes

# Different numbers for everything, none of them another's multiple by chance; two heads of 12.
SIZES = Sizes(width=24, depth=2, mlp_dim=20, patch_size=4, tokens=10, offsets=28, num_heads=2)


def all_leaves(family, depth: int):
    """By layout and architecture of a family, its leaves; with a decoder where the layout speaks of one."""
    sizes = dataclasses.replace(SIZES, depth=depth)
    for layout, architecture in itertools.product(layouts(family), family.architectures):
        leaves = list(encoder_leaves(sizes, architecture))
        if any(name.startswith("decoder.") for name in layout.rules.names):
            leaves += decoder_leaves(sizes, encoder_width=16)
        yield layout, leaves


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=3, deadline=None)
@given(block=st.integers(0, 999))
def test_a_key_says_of_which_parameter_it_is(name, block):
    for layout, leaves in all_leaves(FAMILIES[name], 1):
        for leaf in leaves:
            leaf = leaf if leaf.block is None else dataclasses.replace(leaf, block=block)
            for part in layout.parts(leaf):
                if part.key is not None:
                    assert layout.module(part.key) == (leaf.name, leaf.block), part.key


@pytest.mark.parametrize("name", FAMILIES)
def test_no_tensor_is_two_parameters_or_dropped(name):
    for layout, leaves in all_leaves(FAMILIES[name], 2):
        parts = [part for leaf in leaves for part in layout.parts(leaf)]
        keys = [key for part in parts for key in (part.key, part.mask) if key is not None]
        assert len(keys) == len(set(keys))
        if not layout.rules.model_types:  # Hugging Face's fine-tuned BEiT has its last norm in the pooler.
            assert not [key for key in keys if layout.drops(key)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_number_alone_is_no_block(name):
    """Keys with numbers that nothing in the rules stands for are of no parameter."""
    for layout in layouts(FAMILIES[name]):
        for key in ("blocks.1000.norm1.weight", "head.0.weight", "blocks.0.0.norm1.weight", "stray.3.norm1", "7"):
            assert layout.module(layout.prefix + key) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_leaves_are_the_parameters_of_the_model(name):
    """Of every architecture of a family: the converter and the model speak of one tree."""
    for architecture in FAMILIES[name].architectures:
        grid = (3, 3)
        tokens = 9 + architecture.num_prefix_positions
        sizes = dataclasses.replace(SIZES, tokens=tokens)
        config = sized(
            architecture,
            **{field: getattr(sizes, field) for field in ("width", "depth", "num_heads", "mlp_dim", "patch_size")},
            grid=grid,
        )
        shapes = {path: leaf.shape for path, leaf in flatten_dict(param_shapes(config)).items()}
        leaves = list(encoder_leaves(sizes, architecture))
        assert len({leaf.path for leaf in leaves}) == len(leaves)
        ours = {
            leaf.path: {2: leaf.shape[::-1], 4: (*leaf.shape[2:], *leaf.shape[1::-1])}.get(len(leaf.shape), leaf.shape)
            if leaf.parameter == "weight"
            else leaf.shape
            for leaf in leaves
        }
        assert ours == shapes
