import jax.numpy as jnp
import numpy as np
import pytest

from tests.probes.tables import mesh_of, planted_rows, random_labels, table_of
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.probes.cosine import cosines, fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.sampling import draw_support
from vitprobe_jax.probes.templates import Templates
from vitprobe_jax.probes.trials import Support
from vitprobe_jax.types import Concept


def test_the_cosine_of_a_zero_vector_is_zero():
    z = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(cosines(z, jnp.array([[6.0, 8.0], [0.0, 0.0]])), [[1.0, 0.0], [0.0, 0.0]], rtol=1e-6)


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=40, rows=9, sizes={"object": 4, "part": 2})
    rows, _ = planted_rows(rng, labels, width=12, strength=3.0)
    return labels, rows


def fit(labels, rows, *, shots=(1, 3, 20), devices=1):
    table = table_of(rows, labels, devices=devices)
    draw = draw_support(labels, shots=max(shots), trials=2, seed=0)
    concepts = np.arange(len(labels.concepts), dtype=np.int32)
    support = Support.of(draw, labels, concepts, table.mesh)
    norm = fit_feature_norm(table, kind="none")
    return [np.asarray(leaf) for leaf in fit_cosine(table, support, norm=norm, shots=shots)]


@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_is_of_no_account(planted, devices):
    labels, rows = planted
    one = fit(labels, rows)
    many = fit(labels, rows, devices=devices)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_devices_have_the_same_work(planted):
    """As many concepts of each group, whatever their number; the repeated ones are in no result."""
    labels, _ = planted
    draw, concepts = draw_support(labels, shots=20, trials=2, seed=0), np.arange(6, dtype=np.int32)
    support = Support.of(draw, labels, concepts, mesh_of(4))
    for group in support.groups:
        assert len(group.concept) % 4 == 0
        assert {len(shard.data) for shard in group.images.addressable_shards} == {len(group.concept) // 4}
    of_place = np.concatenate([group.concept for group in support.groups])[support.place]
    np.testing.assert_array_equal(of_place, concepts)


@pytest.mark.slow
def test_a_concept_alone_equals_a_concept_among_others():
    """Their unions are of several sizes, in another order than the concepts; none at all give empty arrays."""
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=60, rows=2, sizes={"object": 6})
    rows, _ = planted_rows(rng, labels, width=12, strength=3.0)
    table = table_of(rows, labels)
    norm = fit_feature_norm(table, kind="standardize")
    draw = draw_support(labels, shots=20, trials=3, seed=0)
    concepts = np.arange(len(labels.concepts), dtype=np.int32)[::-1]
    together = Support.of(draw, labels, concepts, table.mesh)
    assert len(together.groups) > 1
    alpha, t, counts = fit_cosine(table, together, norm=norm, shots=(2, 20))
    for i, k in enumerate(concepts):
        alone = fit_cosine(table, Support.of(draw, labels, concepts[i : i + 1], table.mesh), norm=norm, shots=(2, 20))
        for of_all, of_one in zip((alpha, t, counts), alone, strict=True):
            np.testing.assert_allclose(of_all[:, :, i], of_one[:, :, 0], rtol=1e-5, atol=1e-6, err_msg=str(k))
    none = fit_cosine(table, Support.of(draw, labels, concepts[:0], table.mesh), norm=norm, shots=(2, 20))
    assert [leaf.shape for leaf in none] == [(2, 3, 0, 12), (2, 3, 0), (2, 3, 0, 2)]


def one_shot(rows, backbone="b"):
    """Templates of as many classes as rows, each of one row."""
    count, width = rows.shape
    concepts = tuple(Concept(k + 1, f"class {k}", "class") for k in range(count))
    slots = np.arange(1, count + 1, dtype=np.int32).reshape(-1, 1, 1)
    alpha, t, _ = fit(LabelTable(slots, np.zeros(1, np.int32), concepts, ("class",)), rows[:, None], shots=(1,))
    arrays = {"alpha": alpha, "t": t, "shift": np.zeros(width, np.float32), "scale": np.ones(width, np.float32)}
    return Templates("classification", backbone, 0, "x2", "cosine", concepts, arrays, (1,))


@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["alike", "three features far larger"])
def test_every_template_finds_the_support_rows_that_its_threshold_accepts(scale):
    """One-shot templates of one row each, whose own cosine is 1 but for rounding: in batches of any shape."""
    count, width = 200, 384
    rows = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    rows[:, :3] *= scale
    templates = one_shot(rows)
    rows, place = rows[:, None], np.arange(count)

    def own(margins):
        return np.asarray(margins).reshape(len(margins), -1, count)  # [rows, trials, concepts]

    assert (own(templates.margins(rows[:, 0]))[place, :, place] >= 0).all()
    assert (own(templates.margins(rows.reshape(4, 50, width)).reshape(count, -1))[place, :, place] >= 0).all()
    for k in range(0, count, 5):
        row, single = rows[k], templates.take([k])
        assert (own(templates.margins(row))[0, :, k] >= 0).all()
        assert (np.asarray(single.margins(row)) >= 0).all()
        assert (np.asarray(single.margins(rows[k - k % 20 : k - k % 20 + 20, 0]))[k % 20] >= 0).all()


def test_one_shot_templates_find_their_own_image():
    """The forward pass rounds differently too when images come in other batches."""
    backbone = load_backbone("untrained_dino_tiny")
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    tokens = np.asarray(backbone.tokens(images, [(0, "x2")])[0, "x2"])
    templates = one_shot(tokens[:, 0], backbone.spec.name)
    for size in (1, 3, 24):
        for first in range(0, 24, size):
            found = templates.predict(backbone, images[first : first + size]).reshape(size, 2, 24)
            assert all(found[i, :, first + i].all() for i in range(size))
