"""How an epoch is cut into steps and micro batches."""

import numpy as np
import pytest

from experiments.aggregate.steps import Steps

IMAGES = np.arange(64) * 2  # every other image has a label


def cut(images: int, batch: int, micro: int) -> Steps:
    return Steps.of(images, step_images=batch, micro_batch=micro, multiple=8)


@pytest.mark.parametrize(("images", "batch", "micro"), [(64, 33, 10), (40, 64, 512), (17, 17, 16), (50, 25, 8)])
def test_an_epoch_has_each_image_once_at_most_and_even_micro_batches(images, batch, micro):
    steps = cut(images, batch, micro)
    order = steps.order(IMAGES[:images], 0, 1).reshape(steps.count, steps.turns, steps.micro)
    used = order[order >= 0]
    assert len(set(used)) == len(used) == steps.count * min(batch, images)
    assert set(used) <= set(IMAGES[:images])
    sizes = (order >= 0).sum(axis=2)
    assert sizes.max() <= micro
    assert sizes.max() - sizes.min() <= 1
    assert steps.micro % 8 == 0
    np.testing.assert_array_equal(sizes.sum(axis=1), min(batch, images))


def test_epochs_and_seeds_have_other_orders():
    orders = [cut(64, 16, 8).order(IMAGES, seed, epoch).tolist() for seed in (0, 1) for epoch in (1, 2)]
    assert len({tuple(order) for order in orders}) == 4


def test_the_images_of_a_step_do_not_hang_on_micro_batches():
    in_steps = [
        [sorted(step[step >= 0]) for step in steps.order(IMAGES, 0, 3).reshape(4, -1)]
        for steps in (cut(64, 16, 16), cut(64, 16, 4))
    ]
    assert in_steps[0] == in_steps[1]
    assert cut(64, 16, 4) == Steps(batch=16, count=4, micro=8, turns=4)
