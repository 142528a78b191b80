import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.data.dataset import Annotation
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.extract import extract
from vitprobe_jax.features.table import make_mesh

CELLS = [(0, "q"), (3, "x2"), (3, "k")]
TRANSFORM = Transform((32, 32), "none", 1.0, "bicubic")


class NoiseSplit:
    """Eleven random images; those in `corrupt` cannot be decoded."""

    def __init__(self, corrupt=()):
        self.corrupt = corrupt

    def __len__(self):
        return 11

    def name(self, index):
        return f"noise/{index}.jpg"

    def pixels(self, index):
        return np.random.default_rng(index).integers(0, 256, (32, 32, 3)).astype(np.uint8)

    def image(self, index):
        if index in self.corrupt:
            raise InputError(f"{self.name(index)}: cannot be decoded")
        return Image.fromarray(self.pixels(index))

    def annotation(self, index):
        return Annotation()


def run(split, *, task="segmentation", dtype="float32", mesh=None, skip=False, backbone=None, batch_size=8):
    mesh = mesh or jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    return extract(
        backbone or load_backbone("untrained_dino_tiny"),
        split,
        image_batches(split, TRANSFORM, batch_size=batch_size),
        CELLS,
        task=task,
        skip_corrupt=skip,
        dtype=dtype,
        mesh=mesh,
    )


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_rows_are_the_tokens_of_each_image(task):
    """Batches of 8 over 11 images, so the last one is padded."""
    split, backbone = NoiseSplit(), load_backbone("untrained_dino_tiny")
    features = run(split, task=task)
    tokens = backbone.tokens(np.stack([split.pixels(i) for i in range(11)]), CELLS)
    rows = slice(1, None) if task == "segmentation" else slice(0, 1)
    for cell in CELLS:
        np.testing.assert_allclose(features.rows[cell], np.asarray(tokens[cell])[:, rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.kept, np.arange(11))


def test_one_device_equals_eight():
    one, eight = run(NoiseSplit()), run(NoiseSplit(), mesh=make_mesh())
    for cell in CELLS:
        np.testing.assert_allclose(one.rows[cell], eight.rows[cell], rtol=1e-4, atol=1e-5)


def test_bfloat16_rows_are_close():
    full, half = run(NoiseSplit()), run(NoiseSplit(), dtype="bfloat16")
    for cell in CELLS:
        assert half.rows[cell].dtype == jnp.bfloat16
        # bfloat16 keeps 8 bits; four blocks of rounding on tokens of deviation sigma stay within a few per cent of it.
        error = half.rows[cell].astype(np.float32) - full.rows[cell]
        assert np.sqrt((error**2).mean()) < 0.03 * full.rows[cell].std()


def test_corrupt_images_end_the_run_or_are_left_out():
    split = NoiseSplit(corrupt=(2, 9))
    with pytest.raises(InputError, match=r"noise/2\.jpg"):
        run(split)
    features, whole = run(split, skip=True), run(NoiseSplit())
    assert features.kept.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 10]
    assert len(features.errors) == 2
    for cell in CELLS:
        np.testing.assert_array_equal(features.rows[cell], whole.rows[cell][features.kept])
    with pytest.raises(InputError, match="no image could be decoded"):
        run(NoiseSplit(corrupt=range(11)), skip=True)


def test_a_token_that_is_not_finite_is_named():
    backbone = load_backbone("untrained_dino_tiny")
    params = jax.tree.map(lambda leaf: leaf, dict(backbone.params))
    params["blocks_3"]["norm1"]["scale"] = params["blocks_3"]["norm1"]["scale"].at[0].set(jnp.nan)
    with pytest.raises(InputError, match=r"token x2 of block 3 is not finite for image noise/0\.jpg"):
        run(NoiseSplit(), backbone=Backbone(backbone.spec, params))
