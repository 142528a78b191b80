import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vitprobe_jax.backbones.config import Architecture, sized
from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.data.dataset import Annotation
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.extract import extract, fitting_batch, select_rows, shard_images
from vitprobe_jax.features.store import MemoryStore, RowShape
from vitprobe_jax.features.table import DATA_AXIS

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


def make_store(task="segmentation", dtype="float32", num_images=11, num_rows=16):
    return MemoryStore(RowShape(num_images, num_rows if task == "segmentation" else 1, 96, dtype))


def run(
    split,
    *,
    task="segmentation",
    dtype="float32",
    devices=1,
    skip=False,
    backbone=None,
    batch_size=8,
    store=None,
    **options,
):
    store = store or make_store(task, dtype)
    shards = store.missing(CELLS, range(store.shape.num_shards))
    extract(
        backbone or load_backbone("untrained_dino_tiny"),
        split,
        image_batches(shard_images(split, store.shape, shards), TRANSFORM, batch_size=batch_size),
        store,
        CELLS,
        shards,
        task=task,
        skip_corrupt=skip,
        mesh=jax.sharding.Mesh(np.array(jax.devices()[:devices]), (DATA_AXIS,)),
        **options,
    )
    return store


def rows_of(store, cell):
    return store.source(cell).read(np.arange(store.shape.num_images))


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_rows_are_the_tokens_of_each_image(task):
    """Batches of 8 over 11 images, so the last one is padded."""
    split, backbone = NoiseSplit(), load_backbone("untrained_dino_tiny")
    store = run(split, task=task)
    tokens = backbone.tokens(np.stack([split.pixels(i) for i in range(11)]), CELLS)
    rows = slice(1, None) if task == "segmentation" else slice(0, 1)
    for cell in CELLS:
        np.testing.assert_allclose(rows_of(store, cell), np.asarray(tokens[cell])[:, rows], rtol=1e-4, atol=1e-5)
    assert store.errors() == {}


@pytest.mark.parametrize(
    ("architecture", "global_row"),
    [
        (Architecture(num_registers=2), [0]),
        (Architecture(class_token=False, num_registers=2, pool="patches"), [2, 3, 4, 5]),
        (Architecture(pool="patches_then_norm"), [1, 2, 3, 4]),
        (Architecture(class_token=False, num_registers=4, pool="predictor"), [4, 5, 6, 7]),
    ],
)
def test_prefix_tokens_are_no_patches_and_the_pool_says_what_stands_for_an_image(architecture, global_row):
    config = sized(architecture, patch_size=8, width=6, depth=1, num_heads=1, mlp_dim=6, grid=(2, 2))
    tokens = np.random.default_rng(0).normal(size=(3, config.num_prefix_tokens + 4, 6)).astype(np.float32)
    patches = select_rows(jnp.asarray(tokens), config, "segmentation")
    np.testing.assert_array_equal(patches, tokens[:, config.num_prefix_tokens :])
    rows = select_rows(jnp.asarray(tokens), config, "classification")
    np.testing.assert_allclose(rows, tokens[:, global_row].mean(1, keepdims=True), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_any_number_of_devices_gives_the_rows_of_one(devices):
    """To rounding: a device with another number of images multiplies matrices of other shapes."""
    one, many = run(NoiseSplit()), run(NoiseSplit(), devices=devices)
    for cell in CELLS:
        np.testing.assert_allclose(rows_of(one, cell), rows_of(many, cell), rtol=1e-4, atol=1e-5)


def test_bfloat16_rows_are_close():
    full, half = run(NoiseSplit()), run(NoiseSplit(), dtype="bfloat16")
    for cell in CELLS:
        assert rows_of(half, cell).dtype == jnp.bfloat16
        # bfloat16 keeps 8 bits; four blocks of rounding on tokens of deviation sigma stay within a few per cent of it.
        error = rows_of(half, cell).astype(np.float32) - rows_of(full, cell)
        assert np.sqrt((error**2).mean()) < 0.03 * rows_of(full, cell).std()


def test_corrupt_images_end_the_run_or_have_rows_of_zeros():
    split = NoiseSplit(corrupt=(2, 9))
    with pytest.raises(InputError, match=r"noise/2\.jpg"):
        run(split)
    store, whole = run(split, skip=True), run(NoiseSplit())
    assert list(store.errors()) == [2, 9]
    assert "noise/9.jpg" in store.errors()[9]
    good = [i for i in range(11) if i not in (2, 9)]
    for cell in CELLS:
        np.testing.assert_array_equal(rows_of(store, cell)[good], rows_of(whole, cell)[good])
        assert not rows_of(store, cell)[[2, 9]].any()


def test_picked_rows_are_those_of_all_rows():
    picks = np.sort(np.random.default_rng(0).permuted(np.tile(np.arange(16), (11, 1)), axis=1)[:, :5], axis=1)
    whole, some = run(NoiseSplit()), run(NoiseSplit(), store=make_store(num_rows=5), picks=picks.astype(np.int32))
    for cell in CELLS:
        expected = np.take_along_axis(rows_of(whole, cell), picks[:, :, None], axis=1)
        np.testing.assert_array_equal(rows_of(some, cell), expected)


class SmallShards(RowShape):
    """Shards of four images."""

    shard_images = 4


def test_missing_shards_get_the_bytes_of_an_undisturbed_run():
    """Images are in the same batches whatever else is missing: shard 1 was there, 0 and 2 (of three images) are done."""
    shape = SmallShards(11, 16, 96, "float32")
    assert fitting_batch(3) == 2
    whole, resumed = MemoryStore(shape), MemoryStore(shape)
    run(NoiseSplit(), store=whole, batch_size=2)
    resumed.write(1, {cell: rows_of(whole, cell)[4:8] for cell in CELLS}, {})
    run(NoiseSplit(), store=resumed, batch_size=2)
    for cell in CELLS:
        np.testing.assert_array_equal(rows_of(resumed, cell), rows_of(whole, cell))


def test_a_batch_of_several_shards_fills_them_all():
    small, large = MemoryStore(SmallShards(11, 16, 96, "float32")), make_store()
    split = NoiseSplit(corrupt=(2, 9))
    for store in (small, large):
        run(split, store=store, batch_size=8, skip=True)
    assert small.missing(CELLS, range(3)) == []
    assert small.errors() == large.errors()
    for cell in CELLS:
        np.testing.assert_array_equal(rows_of(small, cell), rows_of(large, cell))


def test_a_store_that_fails_ends_the_extraction():
    class Full(MemoryStore):
        def write(self, shard, rows, errors):
            raise InputError("--cache_dir: no space left")

    with pytest.raises(InputError, match="no space left"):
        run(NoiseSplit(), store=Full(make_store().shape))


def test_a_token_that_is_not_finite_is_named():
    backbone = load_backbone("untrained_dino_tiny")
    params = jax.tree.map(lambda leaf: leaf, dict(backbone.params))
    params["blocks_3"]["norm1"]["scale"] = params["blocks_3"]["norm1"]["scale"].at[0].set(jnp.nan)
    with pytest.raises(InputError, match=r"token x2 of block 3 is not finite for image noise/0\.jpg"):
        run(NoiseSplit(), backbone=Backbone(backbone.spec, params))
