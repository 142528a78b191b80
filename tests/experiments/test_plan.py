import pytest

from experiments.plan import MB, ON_HAND, Bounds, format_plan, plan_backbone
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import RowShape

SHAPES = {"train": RowShape(300, 196, 384, "float32"), "val": RowShape(100, 196, 384, "float32")}
OF_CELL = 400 * 196 * 384 * 4
CELLS = [(layer, token) for layer in range(12) for token in ("q", "k", "v", "x1", "xn", "x2")]


def plan(host, device=1 << 40, *, on_disk=False, cells=CELLS):
    return plan_backbone("vit", cells, SHAPES, Bounds(host, device), on_disk=on_disk)


@pytest.mark.parametrize("fitting", [1, 5, 72, 100])
def test_a_pass_holds_what_fits_and_no_cell_is_lost(fitting):
    planned = plan(fitting * OF_CELL + 1)
    assert [cell for cells in planned.passes for cell in cells] == CELLS
    assert max(map(len, planned.passes)) == min(fitting, 72)
    assert len(planned.passes) == -(-72 // fitting)
    assert planned.images == len(planned.passes) * 400


def test_a_table_that_does_not_fit_needs_a_cache():
    with pytest.raises(InputError, match="--cache_dir"):
        plan(OF_CELL - 1)
    shards = ON_HAND * SHAPES["train"].shard_images * SHAPES["train"].image_bytes
    assert len(plan(OF_CELL - 1, on_disk=True).passes) == -(-72 // ((OF_CELL - 1) // shards))


def test_tables_are_streamed_where_the_devices_are_too_small():
    train = SHAPES["train"].bytes
    assert plan(1 << 40).resident == ("train", "val")
    assert plan(1 << 40, train).resident == ("train",)
    assert plan(1 << 40, train - 1).resident == ("val",)
    assert plan(1 << 40, 1).resident == ()


def test_the_text_says_memory_passes_and_what_is_finished():
    text = format_plan([plan(5 * OF_CELL, 1), plan(1 << 40, cells=[])], {"vit": 7}, Bounds(64 * MB, 32 * MB))
    assert "64 MiB (--host_memory)" in text
    assert "32 MiB (--device_memory)" in text
    assert "15 passes over the images, 6000 images in all" in text
    assert f"{SHAPES['train'].bytes / MB:.1f} MiB, streamed" in text
    assert "all 7 cells are finished" in text
