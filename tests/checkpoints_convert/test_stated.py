"""What a folder of timm or transformers says beside its tensors is used, from the JPEG on; what it does not say is named."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

# Must come before timm and transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
import timm
import transformers as hf
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from checkpoints_convert import convert
from checkpoints_convert.sources import Source
from checkpoints_convert.stated import stated_values
from experiments.backbones import family_transform
from tests.checkpoints_convert import official_files
from tests.checkpoints_convert.conversions import TINY, failure
from tests.zoo.huggingface import randomized
from vitprobe_jax.backbones.config import Preprocess
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.errors import InputError

MEAN, STD = [0.41, 0.52, 0.63], [0.21, 0.32, 0.43]
SIDE = 60
TIMM = {
    "embed_dim": 40,
    "depth": 3,
    "num_heads": 5,
    "patch_size": 12,
    "img_size": SIDE,
    "mlp_ratio": 2.5,
    "num_classes": 0,
}
HF = {
    **{"hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 100},
    # An epsilon that is seen; transformers' own is 1e-12.
    **{"patch_size": 12, "image_size": SIDE, "layer_norm_eps": 1e-3},
}
PROCESSORS = {
    "ViT": {"size": {"height": SIDE, "width": SIDE}, "resample": 2},
    "DeiT": {"size": {"height": 71, "width": 71}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3},
    "Bit": {"size": {"shortest_edge": 71}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3},
}


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A JPEG of odd sizes, read back."""
    rng = np.random.default_rng(4)
    image = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize((131, 98), Image.Resampling.BICUBIC)
    path = tmp_path_factory.mktemp("photograph") / "image.jpg"
    image.save(path)
    with Image.open(path) as file:
        return file.convert("RGB")


def our_tokens(folder, photograph):
    """The last block's normalised tokens, from the image on."""
    backbone = load_backbone(str(folder))
    size = backbone.spec.image_size
    assert size == (SIDE, SIDE)
    pixels = family_transform(backbone.spec.preprocess, size, "family").image(photograph)
    return backbone.spec, np.asarray(backbone.tokens(pixels[None], [(2, "x2")])[2, "x2"])


@pytest.mark.parametrize(
    "data",
    [
        {"crop_pct": 0.95, "interpolation": "bilinear"},
        {"crop_pct": 0.9, "interpolation": "bicubic"},
        {"crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "squash"},
    ],
)
def test_a_folder_of_timm_from_the_jpeg_on(data, photograph, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", **TIMM).eval()
    randomized(model)
    save_for_hf(model, tmp_path / "timm", safe_serialization=True, data_config={"mean": MEAN, "std": STD, **data})
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"]))
    with torch.no_grad():
        theirs = model.forward_features(transform(photograph)[None]).numpy()
    lines = []
    convert(tmp_path / "timm", tmp_path / "out", family="dino", log=lines.append)
    spec, ours = our_tokens(tmp_path / "out", photograph)
    assert (spec.preprocess.mean, spec.preprocess.std, spec.config.num_heads) == (tuple(MEAN), tuple(STD), 5)
    assert theirs.std() > 0.5
    # The pixels are the same; float32 on both sides.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    for said in ("mean 0.41 0.52 0.63 (config.json: mean)", "5 heads (config.json: model_args.num_heads)"):
        assert said in lines[-2]
    assert "epsilon 1e-06 (default of dino)" in lines[-2]


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_folder_of_transformers_from_the_jpeg_on(kind, photograph, tmp_path):
    model = randomized(hf.ViTModel(hf.ViTConfig(**HF), add_pooling_layer=False))
    model.save_pretrained(tmp_path / "hf")
    # Pillow's backend: the other one resizes by torch, a grey level off here and there.
    processor = getattr(hf, f"{kind}ImageProcessorPil")(image_mean=MEAN, image_std=STD, **PROCESSORS[kind])
    processor.save_pretrained(tmp_path / "hf")
    with torch.no_grad():
        theirs = model(**processor(photograph, return_tensors="pt")).last_hidden_state.numpy()
    lines = []
    convert(tmp_path / "hf", tmp_path / "out", family="dino", log=lines.append)
    spec, ours = our_tokens(tmp_path / "out", photograph)
    assert (spec.config.num_heads, spec.config.layer_norm_eps) == (5, 1e-3)
    assert theirs.std() > 0.5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    for said in (
        "std 0.21 0.32 0.43 (preprocessor_config.json: image_std)",
        "epsilon 0.001 (config.json: layer_norm_eps)",
        "5 heads (config.json: num_attention_heads)",
    ):
        assert said in lines[-2]
    assert "default of" not in lines[-2]


def test_the_decoder_of_a_folder_has_its_heads_and_epsilon(unwritten, tmp_path):
    decoder = {"decoder_hidden_size": 24, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 56}
    config = hf.ViTMAEConfig(**HF, **decoder, decoder_num_attention_heads=6)
    randomized(hf.ViTMAEForPreTraining(config)).save_pretrained(tmp_path / "hf")
    spec = convert(tmp_path / "hf", tmp_path / "out", family="mae")
    assert (spec.decoder.num_heads, spec.decoder.layer_norm_eps) == (6, 1e-3)


def test_flags_come_before_the_folder_and_the_line_says_so(unwritten, tmp_path):
    hf.ViTModel(hf.ViTConfig(**HF), add_pooling_layer=False).save_pretrained(tmp_path / "hf")
    hf.ViTImageProcessor(image_mean=MEAN, image_std=STD, **PROCESSORS["ViT"]).save_pretrained(tmp_path / "hf")
    lines = []
    flags = {"mean": [0.1, 0.2, 0.3], "std": STD, "eps": 1e-6}
    spec = convert(tmp_path / "hf", tmp_path / "out", family="dino", **flags, log=lines.append)
    assert (spec.preprocess.mean, spec.preprocess.std) == ((0.1, 0.2, 0.3), tuple(STD))
    assert spec.config.layer_norm_eps == 1e-6
    for said in (
        "mean 0.1 0.2 0.3 (--mean, instead of 0.41 0.52 0.63 in preprocessor_config.json: image_mean)",
        "std 0.21 0.32 0.43 (--std)",
        "epsilon 1e-06 (--eps, instead of 0.001 in config.json: layer_norm_eps)",
    ):
        assert said in lines[-2]


def test_flags_of_a_single_file(unwritten, tmp_path):
    official_files.write_dino(tmp_path / "dino.pth", **TINY)
    lines = []
    flags = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "eps": 1e-5, "num_heads": 3}
    spec = convert(tmp_path / "dino.pth", tmp_path / "out", family="dino", **flags, log=lines.append)
    assert spec.preprocess == Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert (spec.config.layer_norm_eps, spec.config.num_heads) == (1e-5, 3)
    assert lines[-2] == (
        "preprocessing and settings: mean 0.5 0.5 0.5 (--mean); std 0.25 0.25 0.25 (--std); short side to 13 px "
        "(default of dino); bicubic (default of dino); centre of 12 px (default of dino); epsilon 1e-05 (--eps); "
        "3 heads (--num_heads)"
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"mean": [0.5, 0.5]}, "--mean is [0.5, 0.5], not three numbers"),
        ({"mean": [0.5, 0.5, float("nan")]}, "--mean is "),
        ({"std": [0.5, 0.5, 0.0]}, "--std is [0.5, 0.5, 0.0], not three positive numbers"),
        ({"eps": 0.0}, "--eps is 0.0, not a positive number"),
    ],
)
def test_flags_out_of_range_are_refused(flags, said, tmp_path):
    official_files.write_dino(tmp_path / "dino.pth", **TINY)
    assert failure(tmp_path / "dino.pth", tmp_path / "out", **flags).startswith(said)


def stated(folder, config=None, processor=None):
    """The values alone."""
    source = Source(folder, {}, (), config or {}, processor or {})
    return {name: value.value for name, value in stated_values(source).items()}


SQUARE = {"height": 224, "width": 224}
BENT = {"size": 224, "resize_ratio": 1.0, "aspect": "bent", "crop_rounding": "down"}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({}, {}),
        ({"size": 224}, BENT),
        ({"size": SQUARE, "crop_size": SQUARE, "do_center_crop": False}, BENT),
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, BENT | {"resize_ratio": 256 / 224}),
        ({"size": {"shortest_edge": 256}, "crop_size": SQUARE}, BENT | {"resize_ratio": 256 / 224, "aspect": "kept"}),
        ({"image_mean": 0.5, "image_std": [0.5, 0.5, 0.25]}, {"mean": (0.5,) * 3, "std": (0.5, 0.5, 0.25)}),
        # Pixels in 0..2, as the file says, are ours in 0..1.
        ({"image_mean": [1, 1, 1], "image_std": 1, "rescale_factor": 2 / 255}, {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ({"image_mean": 127.5, "image_std": 51, "do_rescale": False}, {"mean": (0.5,) * 3, "std": (0.2,) * 3}),
        ({"image_mean": 0.5, "do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"resample": 3}, {"interpolation": "bicubic"}),
        ({"resample": 2}, {"interpolation": "bilinear"}),
    ],
)
def test_a_preprocessor_config(processor, expected, tmp_path):
    actual = stated(tmp_path, processor=processor)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == (value if isinstance(value, str) else pytest.approx(value))


@pytest.mark.parametrize("flat", [False, True])
def test_both_ages_of_timms_config(flat, tmp_path):
    data = {"input_size": [3, 384, 384], "mean": MEAN, "std": STD, "crop_pct": 0.8, "interpolation": "bilinear"}
    config = {"architecture": "vit", **(data if flat else {"pretrained_cfg": data, "model_args": {"num_heads": 7}})}
    expected = {"mean": tuple(MEAN), "std": tuple(STD), "size": 384, "resize_ratio": 1.25, "interpolation": "bilinear"}
    assert stated(tmp_path, config) == expected | ({} if flat else {"num_heads": 7})


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", {"layer_norm_eps": "small"}, "layer_norm_eps is 'small', not a positive number"),
        ("config.json", {"num_attention_heads": 0}, "num_attention_heads is 0, not a positive whole number"),
        ("config.json", {"pretrained_cfg": {"mean": [0.5]}}, r"mean is \[0.5\], not three numbers"),
        ("config.json", {"pretrained_cfg": {"std": [0, 1, 1]}}, "not three positive numbers"),
        ("config.json", {"pretrained_cfg": {"input_size": [3, 224]}}, "not channels, height and width"),
        ("config.json", {"pretrained_cfg": {"input_size": [3, 224, 192]}}, "only a square"),
        ("config.json", {"pretrained_cfg": {"crop_pct": 1.1}}, "crop_pct is 1.1"),
        ("config.json", {"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode is 'border'"),
        ("config.json", {"pretrained_cfg": {"interpolation": "lanczos"}}, "only bilinear and bicubic"),
        ("preprocessor_config.json", {"resample": 1}, "resample is 1; only 2"),
        ("preprocessor_config.json", {"size": {"longest_edge": 224}}, "size is None"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 224, "longest_edge": 300}}, "a longest_edge"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 224}}, "without a crop"),
        ("preprocessor_config.json", {"size": 224, "do_resize": False}, "do_resize is false"),
        ("preprocessor_config.json", {"size": 224, "do_center_crop": True}, "crop_size is None"),
        ("preprocessor_config.json", {"size": 192, "crop_size": 224}, "crop_size 224 is larger than size 192"),
        ("preprocessor_config.json", {"image_std": 0}, "not three positive numbers"),
        ("preprocessor_config.json", {"rescale_factor": 0}, "rescale_factor is 0, not a positive number"),
    ],
)
def test_what_cannot_be_followed_is_refused(file, content, said, tmp_path):
    arguments = {"config": content} if file == "config.json" else {"processor": content}
    with pytest.raises(InputError, match=said) as caught:
        stated(tmp_path, **arguments)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ({"pretrained_cfg": {"input_size": [3, 62, 62]}}, {}, "which patches of 12 px do not divide"),
        ({"model_args": {"num_heads": 4}}, {"num_heads": 5}, "model_args.num_heads is 4, where dino has 5"),
    ],
)
def test_a_folder_that_contradicts_is_refused(config, options, said, tmp_path):
    save_for_hf(timm.create_model("vit_small_patch16_224", **TIMM), tmp_path / "timm", safe_serialization=True)
    path = tmp_path / "timm" / "config.json"
    path.write_text(json.dumps(config))
    assert said in failure(tmp_path / "timm", tmp_path / "out", **{"num_heads": 5, **options})
