"""Records that describe no model are refused, in one line that names the field."""

import jaxtyping
import pytest

from tests.backbones.random_vit import ARCHITECTURES, tiny
from vitprobe_jax.backbones.config import BackboneSpec, DecoderConfig
from vitprobe_jax.errors import InputError


@pytest.fixture(autouse=True)
def _as_installed():
    """Without the type checks that only tests run: a damaged record must meet the library's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def record(name: str, **changes) -> dict:
    """What `backbone.json` says of a tiny model, with other fields."""
    spec = BackboneSpec(name="mine", family="dino", objective="any", config=tiny(name))
    data = spec.to_json()
    data["config"].update(changes)
    return data


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_record_is_read_back(name):
    spec = BackboneSpec.from_json(record(name))
    assert spec.config == tiny(name)
    assert BackboneSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("ijepa", {"pool": "class"}, r"pool='class' needs a \[CLS\] token"),
        ("simmim", {"num_registers": 4}, "relative_bias: its tables know one prefix token"),
        ("simmim_finetuned", {"class_token": False}, "relative_bias: its tables know one prefix token"),
        ("dinov3", {"num_heads": 6}, "num_heads=6: RoPE turns pairs .* multiple of 4 values, not 6"),
        ("capi", {"num_heads": 2}, "num_heads=2: RoPE turns pairs .* not 18"),
        ("capi", {"num_registers": 6}, "num_registers=6: registers on the border"),
        ("scalemae", {"gsd": 0.0}, "gsd=0.0 is not positive"),
        ("scalemae", {"gsd": -1.0}, "gsd=-1.0 is not positive"),
        ("scalemae", {"gsd": float("nan")}, "gsd=nan is not positive"),
        ("dino", {"num_heads": 5}, "num_heads=5 does not divide the width 36"),
        ("dino", {"num_heads": 0}, "num_heads=0 does not divide the width 36"),
        ("dino", {"layer_norm_eps": 0.0}, "layer_norm_eps=0.0 is not positive"),
        ("dino", {"norm": "batch_norm"}, "norm='batch_norm' is none of layer_norm, rms_norm"),
        ("dino", {"mlp": "relu"}, "mlp='relu' is none of gelu, swiglu"),
        ("dino", {"relative_bias": "some"}, "relative_bias='some' is none of none, shared, per_block"),
        ("dino", {"rope": "mixed"}, "rope='mixed' is none of none, axial, stored"),
        ("dino", {"positions": "fixed"}, "positions='fixed' is none of learned, gsd, none"),
        ("dino", {"resample": "lanczos"}, "resample='lanczos' is none of dino, bicubic"),
        ("dino", {"pool": "max"}, "pool='max' is none of class, patches"),
        ("dino", {"window": 7}, "window"),
    ],
)
def test_a_record_of_no_model_is_refused(name, changes, named):
    with pytest.raises(InputError, match=named) as caught:
        BackboneSpec.from_json(record(name, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["interpolation", "resize_rounding", "aspect", "crop_rounding"])
def test_an_unknown_rule_of_the_preprocessing_is_refused(field):
    data = record("dino")
    data["preprocess"][field] = "other"
    with pytest.raises(InputError, match=f"{field}='other' is none of "):
        BackboneSpec.from_json(data)


def test_a_decoder_whose_heads_do_not_divide_its_width_is_refused():
    with pytest.raises(InputError, match="decoder: num_heads=5 does not divide the width 24"):
        DecoderConfig(width=24, depth=1, num_heads=5, mlp_dim=48)
