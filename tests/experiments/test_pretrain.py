"""The pretrain command: a resumed training ends as an undisturbed one, its folder is a backbone, bad input is refused."""

import csv
import json

import numpy as np
import pytest
from absl import flags

from experiments import pretrain
from vitprobe_jax.backbones.loading import load_backbone, load_decoder
from vitprobe_jax.errors import InputError

SMALL = ("--image_size=32", "--width=16", "--depth=1", "--num_heads=2", "--batch_size=8", "--dataset=shapes:32")


def make_config(out, *arguments):
    values = flags.FlagValues()
    pretrain.define_flags(values)
    values(["pretrain", f"--out={out}", *SMALL, "--steps=6", "--checkpoint_every=2", "--log_every=1", *arguments])
    return pretrain.pretrain_config(values)


class StopError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dino", "mae"])
def test_a_resumed_training_ends_in_the_same_bytes(tmp_path, monkeypatch, objective):
    whole = pretrain.pretrain(make_config(tmp_path / "whole", f"--objective={objective}"))
    step, count = pretrain.train_step, iter(range(100))

    def stopping(*arguments):
        if next(count) == 4:
            raise StopError
        return step(*arguments)

    monkeypatch.setattr(pretrain, "train_step", stopping)
    with pytest.raises(StopError):
        pretrain.pretrain(make_config(tmp_path / "stopped", f"--objective={objective}"))
    monkeypatch.setattr(pretrain, "train_step", step)
    with pytest.raises(InputError, match="--resume"):
        pretrain.pretrain(make_config(tmp_path / "stopped", f"--objective={objective}"))
    resumed = pretrain.pretrain(make_config(tmp_path / "stopped", f"--objective={objective}", "--resume"))
    assert (resumed / "curve.csv").read_bytes() == (whole / "curve.csv").read_bytes()
    backbones = [load_backbone(str(folder)) for folder in (whole, resumed)]
    assert backbones[0].spec.params_sha256 == backbones[1].spec.params_sha256
    with (whole / "curve.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert [int(row["step"]) for row in curve] == [1, 2, 3, 4, 5, 6]
    assert ("teacher_entropy" in curve[0]) == (objective == "dino")


@pytest.mark.slow
def test_the_folder_is_a_backbone_with_its_recipe(tmp_path):
    folder = pretrain.pretrain(make_config(tmp_path / "out", "--objective=mae", "--name=mine", "--seed=3"))
    backbone = load_backbone(str(folder))
    assert (backbone.spec.name, backbone.spec.family) == ("mine", "mae")
    tokens = backbone.tokens(np.zeros((2, 32, 32, 3), np.uint8), [(0, "x2")])[0, "x2"]
    assert tokens.shape == (2, 17, 16)
    decoder, _ = load_decoder(folder)
    assert decoder.width == 64
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["seed"] == 3
    assert recipe["images_seen"] == 48
    assert "--seed=3" in recipe["command"]
    assert recipe["objective"]["mask_ratio"] == 0.75
    assert recipe["schedule"]["weight_decay"] == 0.05


def test_epochs_are_other_orders_of_the_same_images(tmp_path):
    config = make_config(tmp_path, "--objective=mae", "--dataset=shapes:24")  # 18 to train on: two batches an epoch
    dataset = pretrain.open_dataset(config.dataset, seed=0)
    batches = pretrain._batches(config, dataset, 0)
    first = [next(batches) for _ in range(6)]
    batches.close()
    again = pretrain._batches(config, dataset, 3)
    np.testing.assert_array_equal(next(again), first[3])
    again.close()
    by_epoch = [{image.tobytes() for batch in first[i : i + 2] for image in batch} for i in (0, 2, 4)]
    assert all(len(images) == 16 for images in by_epoch)
    assert not np.array_equal(first[0], first[2])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--batch_size=12", "--batch_size.*multiple of 8"),
        ("--batch_size=40", "--batch_size.*multiple of 32"),
        ("--image_size=30", "--image_size.*--patch_size=8"),
        ("--steps=0", "--steps.*at least 1"),
        ("--learning_rate=0", "--learning_rate.*positive"),
        ("--num_heads=3", "num_heads=3 does not divide"),
        ("--name=a/b", "--name.*'a/b'"),
        ("--width=18", "--width.*multiple of 4"),
        ("--dataset=shapes:8", "--batch_size.*fewer images"),
        ("--mesh=3", "--mesh.*3 devices"),
        ("--out=gs://bucket/out", "--out.*local folder"),
    ],
)
def test_bad_flags_name_themselves(tmp_path, argument, words):
    with pytest.raises(InputError, match=words):
        pretrain.pretrain(make_config(tmp_path / "out", "--objective=mae", argument))


def test_a_loss_that_is_not_finite_ends_with_a_line():
    pretrain._check_finite({"step": 1, "loss": 0.5})
    with pytest.raises(InputError, match="--learning_rate: the loss is nan at step 2"):
        pretrain._check_finite({"step": 2, "loss": float("nan")})
