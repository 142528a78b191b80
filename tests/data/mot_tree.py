"""Small trees of MOTChallenge, written by code."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.moving import background, draw, movers

INFO = """[Sequence]
name={name}
imDir=img1
frameRate=30
seqLength={length}
imWidth={width}
imHeight={height}
imExt=.jpg

"""


def write_sequence(folder: Path, lines: list[str], images: list[Image.Image]) -> Path:
    """A sequence in `folder`, with these lines of gt.txt."""
    for part in ("img1", "gt"):
        (folder / part).mkdir(parents=True)
    for number, image in enumerate(images, 1):
        image.save(folder / "img1" / f"{number:06d}.jpg", quality=95)
    size = {"width": images[0].width, "height": images[0].height}
    (folder / "seqinfo.ini").write_text(INFO.format(name=folder.name, length=len(images), **size))
    (folder / "gt/gt.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def write_mot(
    root: Path,
    *,
    seed: int,
    sequences: tuple[str, ...] = ("MOT17-02-FRCNN", "MOT17-04-FRCNN"),
    num_frames: int = 6,
    num_people: int = 4,
    size: tuple[int, int] = (120, 160),
) -> Path:
    """Sequences of striped people in lanes, each with a pattern of its own; nobody stands before another one.

    Args:
        root: gets train/.
        seed: of all that is drawn.
        sequences: names of their folders.
        num_frames: in each sequence.
        num_people: in every frame; numbered from 1, the last one leaves the image by half.
        size: height and width of the frames.
    """
    for i, name in enumerate(sequences):
        rng = np.random.default_rng([seed, i])
        scene = background(rng, size)
        # All are pedestrians, so here it is the track that has its own hue.
        people = movers(rng, list(range(num_people)), num_people, size, num_frames)
        lines = []
        for track, person in enumerate(people, 1):
            for frame in range(num_frames):
                left, top, right, bottom = person.box(frame)
                visible = min(size[1] - left, right - left) / (right - left)
                box = f"{left + 1},{top + 1},{right - left},{bottom - top}"
                lines.append(f"{frame + 1},{track},{box},1,1,{visible:.5f}")
        write_sequence(root / "train" / name, lines, [draw(scene, people, frame) for frame in range(num_frames)])
    return root
