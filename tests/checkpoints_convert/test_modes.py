"""What the command does with its flags: converts, recognises, lists, downloads; and what it refuses, in this process."""

import dataclasses
import hashlib

import pytest
from absl import flags

from checkpoints_convert import __main__ as command
from checkpoints_convert import listing
from tests.checkpoints_convert.conversions import TINY
from tests.checkpoints_convert.official_files import write_dino
from vitprobe_jax.backbones.families import FAMILIES, Arch
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.errors import InputError


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command; returns the lines that it prints, and the error that it ends with or None."""

    def call(*arguments):
        values = flags.FlagValues()
        command.define_flags(values)
        positional = values(["checkpoints_convert", *map(str, arguments)])
        monkeypatch.setattr(flags, "FLAGS", values)
        try:
            command.main(positional)
        except InputError as error:
            return capsys.readouterr().out.splitlines(), str(error)
        return capsys.readouterr().out.splitlines(), None

    return call


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "dino.pth"
    write_dino(path, **TINY, layout="teacher")
    return path


@pytest.fixture
def published(monkeypatch, host, dino):
    """The host's file as the one that DINO published, under `--arch=tiny`; another one has to be fetched by hand."""
    host.content = dino.read_bytes()
    sizes = {field: TINY[field] for field in ("width", "depth", "num_heads", "patch_size")}
    tiny = Arch(**sizes, file="official.pth", url=host.url, sha256=hashlib.sha256(host.content).hexdigest()[:8])
    archs = {"tiny": tiny, "by_hand": dataclasses.replace(tiny, url="")}
    monkeypatch.setitem(FAMILIES, "dino", dataclasses.replace(FAMILIES["dino"], archs=archs))
    return host


@pytest.mark.usefixtures("unwritten")
def test_a_file_is_recognised_unless_told(run, dino, tmp_path):
    lines, error = run(f"--input={dino}", f"--output={tmp_path}/out", "--num_heads=3")
    assert error is None
    assert lines[0].startswith(f"wrote {tmp_path}/out: out, dino, 2 blocks of width 36")
    assert lines[-1] == f"recognised as dino: {FAMILIES['dino'].objective}"


@pytest.mark.usefixtures("unwritten")
def test_flags_set_what_the_file_does_not_say(run, dino, tmp_path):
    settings = ("--mean=0.5,0.4,0.3", "--std=0.3,0.2,0.1", "--eps=1e-5")
    lines, error = run(f"--input={dino}", f"--output={tmp_path}/out", "--family=dino", "--num_heads=3", *settings)
    assert error is None
    assert "mean 0.5 0.4 0.3 (--mean); std 0.3 0.2 0.1 (--std); " in lines[1]
    assert lines[1].endswith("; epsilon 1e-05 (--eps); 3 heads (--num_heads)")


def test_a_mean_that_is_no_list_of_numbers_is_refused(run, dino, tmp_path):
    files = (f"--input={dino}", f"--output={tmp_path}/out")
    assert run(*files, "--mean=a,b,c")[1] == "--mean: 'a,b,c' is not three numbers; give them as 0.5,0.5,0.5"
    assert run(*files, "--std=1,2")[1].startswith("--std is [1.0, 2.0], not three numbers")
    assert run("--list", "--eps=1e-5")[1].startswith("--eps: --list prints a table")


def test_the_official_file_is_fetched_and_converted(run, published, tmp_path):
    download = ("--download", "--family=dino", "--arch=tiny", f"--cache_dir={tmp_path}/cache")
    lines, error = run(*download)
    assert error is None
    assert lines[0].startswith(f"downloading {published.url} ")
    assert lines[1].endswith(" as published")
    (file,) = tmp_path.glob("cache/*/official.pth")
    assert lines[2] == f"fetched {file}; give it by --input, or --output=DIR with the same flags to convert it"
    assert not (tmp_path / "out").exists()

    lines, error = run(*download, f"--output={tmp_path}/out", "--name=mine")
    assert error is None
    assert lines[0].startswith(f"{file}: downloaded before, ")
    assert lines[1].startswith(f"wrote {tmp_path}/out: mine, dino, 2 blocks of width 36, 3 heads")
    assert len(published.requests) == 1
    spec = load_backbone(f"{tmp_path}/out").spec
    assert (spec.source, spec.sha256) == ("official.pth", hashlib.sha256(published.content).hexdigest())


def test_a_download_that_fails_converts_nothing(run, published, tmp_path):
    published.content = b"other" * 100
    arguments = ("--download", "--family=dino", "--arch=tiny", f"--cache_dir={tmp_path}/cache")
    _, error = run(*arguments, f"--output={tmp_path}/out")
    assert error.startswith(f"{published.url}: not the official file: sha256 ")
    assert not (tmp_path / "out").exists()


def test_what_can_be_converted_is_listed(run):
    assert run("--list") == (listing.families_text().splitlines(), None)
    assert run("--list", "--markdown") == (listing.families_markdown().splitlines(), None)
    lines, error = run("--list", "--family=capi")
    assert error is None
    assert FAMILIES["capi"].page in lines[0]
    assert lines[2:] == listing.files_text(FAMILIES["capi"]).splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "--input: is missing; give the official file or a Hugging Face folder, or --download"),
        ("--input=a.pth", "--output: is missing; give the folder to write"),
        ("--input= --output=out", "--input: is missing"),
        ("a.pth", "'a.pth': not a flag"),
        ("--input=a.pth --output=out --cache_dir=c", "--cache_dir: is where --download keeps files"),
        ("--input=a.pth --output=out --markdown", "--markdown: is for the table of families; give --list"),
        ("--input=a.pth --output=out --arch=vits16", "--arch=vits16: say of which --family"),
        ("--list --input=a.pth", "--input: --list prints a table"),
        ("--list --arch=vits16", "--arch: --list prints a table"),
        ("--list --download", "--download: --list prints a table"),
        ("--list --num_heads=3", "--num_heads: --list prints a table"),
        ("--list --markdown --family=dino", "--markdown: is for the table of families"),
        ("--download --input=a.pth", "--input: --download fetches the file; leave one of them out"),
        ("--download", "--download: of which --family? give one of dino, "),
        ("--download --arch=vits16", "--download: of which --family?"),
        ("--download --family=dino", "--download: --arch is missing; give one of tiny, by_hand"),
        ("--download --family=dino --arch=vitz1", "--download: --arch: 'vitz1' is none of them; give one of tiny"),
        ("--download --family=dino --arch=tiny --num_heads=3", "--num_heads: is for a conversion; give --output too"),
        ("--download --family=dino --arch=by_hand", "--download: official.pth has no address that is open to all"),
    ],
)
def test_flags_that_make_no_sense_end_in_one_line(arguments, said, run, published):
    lines, error = run(*arguments.split())
    assert lines == []
    assert error.startswith(said)
    assert "\n" not in error
    assert not published.requests


def test_by_hand_says_where(run, published):
    _, error = run("--download", "--family=dino", "--arch=by_hand")
    assert error.endswith(f"get it from {FAMILIES['dino'].page} and give it by --input=FILE")
