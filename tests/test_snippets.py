"""What README.md and docs/ tell a reader to type is typed here: every block of shell or Python, in its page's order.

A command that cannot run here has its reason in `NOT_RUN`. The flags of every command, of those too, and of those that
stand within a sentence, are parsed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.snippets.blocks import Block, commands, module_calls, read_blocks
from tests.snippets.sandbox import run_shell, write_files

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
LANGUAGES = ("sh", "python")
"""Of blocks that run. A block of no language is a drawing or a list of files; another language would run nowhere."""

SUBSTITUTIONS = (
    # A reader's own data.
    (r"\bbroden:DIR\b", "broden:made/broden"),
    (r"\bimagefolder:DIR\b", "imagefolder:made/classes"),
    (r"\bcityscapes:DIR\b", "cityscapes:made/streets"),
    (r"\bfair1m:DIR\b", "fair1m:made/aerial"),
    (r"\bmot17:DIR\b", "mot17:made/people"),
    (r"--boxes=DIR\b", "--boxes=made/boxes"),
    # Files in the official layouts that stand in for the published ones are smaller than any of these.
    (r"--family=(\w+) --arch=(\w+)", r"--family=\1 --num_heads=2 --name=\1_\2"),
)
"""(regular expression, replacement) in shell blocks: for what is not on this machine."""

PAGE_SUBSTITUTIONS = {
    # The tutorial makes these two folders itself.
    "README.md": (
        (r"--input=photos\b", "--input=made/plain"),
        (r"\bimagefolder:animals\b", "imagefolder:made/classes"),
        # No file is fetched here; tests/checkpoints_convert/test_modes.py does that.
        (r"--download\b", "--input=mae_pretrain_vit_base.pth"),
        # All parts run from docs/local.md.
        (r"--out=out/local\b", "--out=out/local --parts=patches,tracking"),
        (r"--out=out/aggregate\b", "--out=out/aggregate --parts=attention"),
    ),
    "docs/aggregation.md": (
        (r"--download --family=dino\b", "--input=dino_vitbase16_pretrain.pth --family=dino"),
        (r"--download --family=mae\b", "--input=mae_pretrain_vit_base.pth --family=mae"),
    ),
    "docs/local.md": (
        (r"--download --family=dino\b", "--input=dino_vitbase16_pretrain.pth --family=dino"),
        (r"--download --family=mae\b", "--input=mae_visualize_vit_base.pth --decoder_heads=2 --family=mae"),
    ),
    "docs/zoo.md": ((r"--download\b", "--input=scalemae-vitlarge-800.pth"),),
}
"""The same for single pages."""

SMALL = {
    "experiments.sweep": "--image_size=32 --tokens=k --shots=1,3 --trials=2 --max_images=16 --min_positives=1",
    "experiments.local": "--image_size=32 --tile=64 --images_per_group=1,2 --val_images_per_group=2 --drop_features=0,4 "
    "--whole_size=64x64 --corruptions=noise --transformations=shift --gaps=1 --methods=knn,linear --examples=1",
    "experiments.aggregate": "--image_size=32 --representations=mean,abmilp_1 --epochs=2 --box_thresholds=10",
    "experiments.pretrain": "--steps=2 --batch_size=8 --dataset=shapes:16",
}
"""Flags that are added to a command, after its own: for what would take long here."""

NOT_RUN = {
    r"(\S*/)?pip install\b": "installs from a registry; CI installs in a fresh clone",
    r"python3 -m venv\b|\. \.venv/bin/activate$": "as above",
    r"make\b": "a target of the Makefile; CI runs lint and test, and demo is a sweep",
    r"\S*pre-commit\b": "installs hooks into the clone",
    r"git clone\b": "needs the repository's address",
    r"(export|alias) \w+=": "variables of a cloud project",
    r"(gcloud|all) ": "needs a Cloud TPU slice",
    r"python -m experiments\.report out/dino\b": "reads what that slice's sweep left",
    r"python -m checkpoints_convert\.listing\b": "writes pages of a clone; see tests/checkpoints_convert/test_listing.py",
    r"(python -m )?pytest\b|python -m tests\.zoo\b": "tests, of which CI runs all",
    r"python -m vitprobe_jax\.data\.tfds_builders --dataset=imagenet200": "needs ImageNet; see tests/data/test_tfds.py",
}
"""(regular expression at the beginning of a command) -> why it does not run here."""

NAMES = {page: {"images": np.zeros((2, 32, 32, 3), np.uint8)} for page in ("README.md", "docs/zoo.md")}
"""What a page's Python expects its reader to have."""


def reason(command: str) -> str | None:
    """Why a command does not run here; None for one that does."""
    return next((why for start, why in NOT_RUN.items() if re.match(start, command)), None)


def substituted(command: str, page: str) -> str:
    """The command in small, on what there is here."""
    for pattern, replacement in SUBSTITUTIONS + PAGE_SUBSTITUTIONS.get(page, ()):
        command = re.sub(pattern, replacement, command)
    for module, flags in SMALL.items():
        if re.search(rf"python -m {re.escape(module)}\b", command):
            code, mark, comment = command.partition(" #")
            command = f"{code.rstrip()} {flags}{mark}{comment}"
    return command


def script(block: Block) -> str:
    """What of a shell block runs here."""
    return "\n".join(substituted(command, block.page) for command in commands(block.text) if not reason(command))


def runs(block: Block) -> bool:
    return block.language == "python" or (block.language == "sh" and bool(script(block)))


BLOCKS = {page: read_blocks(ROOT / page, page) for page in PAGES}


def test_pages_are_read_whole():
    """As many fences open and close as blocks were found, so that none is overlooked."""
    for page, blocks in BLOCKS.items():
        fences = re.findall(r"^ *```", (ROOT / page).read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(blocks), page
    assert sum(map(len, BLOCKS.values())) > 10


def test_every_block_is_of_a_kind_that_runs():
    for blocks in BLOCKS.values():
        for block in blocks:
            assert block.language in ("", *LANGUAGES), f"{block}: {block.language}"
            if not block.language:
                assert not re.search(r"^\s*(\$ ?)?(python|pip|make|import|from) ", block.text, re.MULTILINE), block


def test_python_blocks_compile():
    for blocks in BLOCKS.values():
        for block in blocks:
            if block.language == "python":
                compile(block.text, str(block), "exec")


def test_commands_are_told_apart():
    text = "a --b=1 \\\n    --c   # why\n# nothing\n\nall 'x &&\n  y'\nd"
    assert commands(text) == ["a --b=1 \\\n    --c   # why", "all 'x &&\n  y'", "d"]
    calls = (
        "go `python -m experiments.b --c=1`, and\nall 'cd x && y/python -m experiments.d --e \\\n  --f=2 ... > log &'\n"
    )
    assert list(module_calls(calls)) == [("experiments.b", ["--c=1"]), ("experiments.d", ["--e", "--f=2"])]
    assert list(module_calls("`python -m tests.data --a=b` `python -m pytest c`")) == [("tests.data", ["--a=b"])]


@pytest.mark.slow
def test_flags_of_every_command_parse():
    """Each `python -m` of these pages and of the Makefile, as it stands, is taken by the module's own flags."""
    pages = [(ROOT / page).read_text() for page in [*PAGES, "Makefile"]]
    calls = [call for page in pages for call in module_calls(page) if "--help" not in call[1]]
    assert len(calls) > 10
    assert not parse_flags(calls)


@pytest.mark.slow
def test_a_flag_that_does_not_exist_is_found():
    wrong = [("experiments.sweep", ["--no_such_flag=1"]), ("experiments.sweep", ["--trials=many"])]
    wrong += [("experiments.local", ["--tile=large"]), ("tests.data", ["--no_such_flag"])]
    wrong += [("checkpoints_convert", ["--family=clip", "--input=a", "--output=b"]), ("experiments.no_such", [])]
    assert len(parse_flags([*wrong, ("experiments.sweep", ["--trials=3"])])) == len(wrong)


def parse_flags(calls: list[tuple[str, list[str]]]) -> dict[str, str]:
    """The commands whose flags do not parse, and what was said."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.snippets.check_flags"],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(runs, BLOCKS[page]))])
def test_every_block_of_a_page_runs(page, files, monkeypatch):
    """In a folder of its own; Python's names live as long as the page."""
    folder = files.parent / page.replace("/", "_")
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"} | NAMES.get(page, {})
    for block in filter(runs, BLOCKS[page]):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
        else:
            result = run_shell(folder, script(block))
            assert result.returncode == 0, f"{block}\n{script(block)}\n{result.stdout}\n{result.stderr}"
