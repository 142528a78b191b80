"""The command in a process of its own: what it prints, and exit code 2 with one line. The rest is tested in this process."""

import subprocess
import sys

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
    wrote, used, dropped = run.stdout.splitlines()
    assert used == (
        "preprocessing and settings: mean 0.485 0.456 0.406 (default of dino); std 0.229 0.224 0.225 (default of dino); "
        "short side to 13 px (default of dino); bicubic (default of dino); centre of 12 px (default of dino); "
        "epsilon 1e-06 (default of dino); 3 heads (--num_heads)"
    )
    assert wrote == f"wrote {tmp_path}/out: out, dino, 2 blocks of width 36, 3 heads, patches of 4 px"
    assert (
        dropped
        == "dropped: head (2 tensors); not read: student, optimizer, epoch, args (argparse.Namespace), dino_loss"
    )


def test_the_command_fails_in_one_line(tmp_path):
    official_files.write_dino(tmp_path / "dino.pth", **TINY)
    run = command("--family=dino", "--arch=vits16", f"--input={tmp_path}/dino.pth", f"--output={tmp_path}/out")
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/dino.pth: no dino vits16 checkpoint: width 36 instead of 384")
    assert not (tmp_path / "out").exists()
