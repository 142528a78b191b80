import pytest

from experiments import pretrain, protocol, sweep
from tests.data.mot_tree import write_mot
from tests.experiments.test_pretrain import make_config as pretrain_config
from tests.experiments.test_sweep import make_config
from vitprobe_jax.errors import InputError


def test_what_needs_training_images_refuses_tracks_in_one_line(tmp_path, monkeypatch):
    root = write_mot(tmp_path / "tracks", seed=0, sequences=("MOT17-02-FRCNN",), num_frames=1)
    for module in (sweep, protocol):
        monkeypatch.setattr(module, "load_backbones", lambda config: [])
    config = make_config(tmp_path / "out", f"--dataset=mot17:{root}", "--backbones=untrained_dino_tiny")
    for run in (lambda: sweep.run_sweep(config), lambda: next(protocol.outcomes(config))):
        with pytest.raises(InputError, match=r"--dataset: mot17:tracks has no train images, .* has train and val$"):
            run()
    config = pretrain_config(tmp_path / "out", f"--dataset=mot17:{root}")
    with pytest.raises(InputError, match=r"--dataset: mot17:tracks has no train images, .* has train$"):
        pretrain.pretrain(config)
    assert not (tmp_path / "out").exists()
