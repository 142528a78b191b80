"""The command: what it prints, and exit code 2 with one line."""

import subprocess
import sys

import pytest

from tests.checkpoints_convert import official_files
from tests.checkpoints_convert.conversions import TINY


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "checkpoints_convert", *flags], capture_output=True, text=True, check=False
    )


def test_the_command(tmp_path):
    official_files.write_dino(tmp_path / "dino.pth", **TINY, layout="teacher")
    run = command("--family=dino", "--num_heads=3", f"--input={tmp_path}/dino.pth", f"--output={tmp_path}/out")
    assert run.returncode == 0, run.stderr
    wrote, dropped = run.stdout.splitlines()
    assert wrote == f"wrote {tmp_path}/out: out, 2 blocks of width 36, 3 heads, patches of 4 px"
    assert dropped == "dropped: head (2 tensors); not read: student, optimizer, epoch, args, dino_loss"


@pytest.mark.parametrize(
    ("flag", "said"), [("--family=dinov9", "dinov9"), ("--num_heads=0", "num_heads"), ("--arch=vits16", "width 36")]
)
def test_the_command_fails_in_one_line(flag, said, tmp_path):
    official_files.write_dino(tmp_path / "dino.pth", **TINY)
    run = command("--family=dino", f"--input={tmp_path}/dino.pth", f"--output={tmp_path}/out", flag)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()
