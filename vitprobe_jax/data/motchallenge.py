"""MOT16, MOT17 and MOT20: pedestrians tracked through street scenes and crowds (MOTChallenge).

The layout and the tables are the official ones, the same for all three:

    train/MOT20-01/
      seqinfo.ini        [Sequence]: imDir, seqLength, imWidth, imHeight, imExt
      img1/000001.jpg    the frames, numbered from 1
      gt/gt.txt          frame,id,left,top,width,height,considered,class,visibility

MOT17 has the same frames and boxes thrice, `train/MOT17-02-DPM`, `-FRCNN` and `-SDP`, once for each of three detectors,
whose detections are of no use here. The test sequences have no boxes.

Which boxes count is the rule of the official evaluation code (TrackEval): those of class 1, pedestrians, that are marked as
to be considered. All others, people on vehicles and standing ones too, are left out.
"""

import configparser
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from vitprobe_jax.data.dataset import Box, Dataset
from vitprobe_jax.data.files import existing_folder
from vitprobe_jax.data.tracks import Frame, Sequence, check_box, is_outside, pack_sequences
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

BENCHMARKS = ("MOT16", "MOT17", "MOT20")
PEDESTRIAN, CLASSES = 1, 13
"""The class that counts, and how many there are, numbered from 1; the last one, crowds, is in MOT20 alone."""

DETECTORS = ("FRCNN", "DPM", "SDP")
_EXAMPLES = dict(zip(BENCHMARKS, ("MOT16-02", "MOT17-02-FRCNN", "MOT20-01"), strict=True))
_COLUMNS = "frame,id,left,top,width,height,considered,class,visibility"


def open_motchallenge(folder: str | Path, name: str, *, benchmark: str) -> Dataset:
    """Reads the tables of a benchmark's training sequences, which alone have boxes; they are the split `val`.

    Of each sequence of MOT17 one copy is taken: FRCNN's, else DPM's, else SDP's, else that without a detector. Frames
    without a box are kept. Boxes are those of pedestrians that are to be considered (`considered` is not 0), whatever
    hides them, and may reach beyond the image; one that has left it altogether, with visibility 0, shows nothing and is
    left out. Coordinates are counted from 1 in the tables, here from 0. All frames are listed and all tables read, no
    image is.

    Args:
        folder: holds train/.
        name: what results call the data set.
        benchmark: of `BENCHMARKS`; sequences of other ones are not taken.

    Raises:
        InputError: the folder is missing or holds no sequence of the benchmark, a frame or a table is missing, a table is
            malformed or has a box outside its frame.
    """
    folder = existing_folder(folder)
    copies = _choose_copies(folder, benchmark)
    digest = hashlib.sha256()

    def sequences() -> Iterator[Sequence]:
        for sequence, copy in copies.items():
            found, content = _read_sequence(folder, copy, sequence, _expected(benchmark))
            digest.update(content)
            yield found

    split = pack_sequences(folder, sequences())
    return Dataset(
        name=name,
        concepts=(Concept(number=PEDESTRIAN, name="pedestrian", category="object"),),
        splits={"val": split},
        skip_corrupt=False,
        fingerprint=digest.hexdigest(),
        supercategories=("person",),
    )


def _expected(benchmark: str) -> str:
    return f"expected train/{_EXAMPLES[benchmark]}/ with seqinfo.ini, img1/ and gt/gt.txt"


def _choose_copies(folder: Path, benchmark: str) -> dict[str, str]:
    """The folder in train/ of each sequence, sorted by the sequence's name."""
    train = folder / "train"
    entries = {entry.name for entry in os.scandir(train) if entry.is_dir()} if train.is_dir() else set()
    present = {entry for entry in entries if entry.startswith(f"{benchmark}-")}
    if not present:
        others = sorted(entry for entry in entries if entry.startswith(tuple(f"{other}-" for other in BENCHMARKS)))
        if others:
            kind = others[0].split("-")[0]
            raise InputError(
                f"--dataset: {folder} holds sequences of {kind}, as {others[0]}; give {kind.lower()}:{folder}"
            )
        raise InputError(f"--dataset: {folder} has no sequences; {_expected(benchmark)}")
    copies = {}
    for suffix in (*(f"-{detector}" for detector in DETECTORS), ""):
        for entry in sorted(present):
            sequence = entry.removesuffix(suffix)
            if entry.endswith(suffix) and (suffix or not entry.endswith(DETECTORS)):
                copies.setdefault(sequence, entry)
    return dict(sorted(copies.items()))


def _read_sequence(folder: Path, copy: str, name: str, expected: str) -> tuple[Sequence, bytes]:
    """One sequence, and a digest of all that it is made of."""
    place = f"train/{copy}"
    info = folder / place / "seqinfo.ini"
    frames_folder, length, image_size, extension = _read_info(info, _read(info, expected))
    place_of_frames = f"{place}/{frames_folder}"
    sizes = _file_sizes(folder / place_of_frames)
    files = [f"{number:06d}{extension}" for number in range(1, length + 1)]
    absent = [file for file in files if file not in sizes]
    if absent:
        raise InputError(
            f"{folder / place_of_frames}: lacks {len(absent)} of the {length} frames that seqinfo.ini tells of, the first "
            f"is {absent[0]}; complete the folder"
        )
    table = folder / place / "gt/gt.txt"
    content = _read(table, expected)
    if not content.strip():
        raise InputError(f"{table}: is empty; restore the file")
    boxes = _read_boxes(table, content, length, image_size)
    frames = tuple(
        Frame(f"{place_of_frames}/{file}", number, tuple(boxes.get(number, ()))) for number, file in enumerate(files, 1)
    )
    listed = "".join(f"{frame.file}\0{sizes[file]}\n" for frame, file in zip(frames, files, strict=True))
    digest = hashlib.sha256(listed.encode("utf-8", "surrogateescape") + hashlib.sha256(content).digest()).digest()
    return Sequence(name, image_size, frames), digest


def _read_info(path: Path, content: bytes) -> tuple[str, int, tuple[int, int], str]:
    """Where the frames are, how many, their height and width, and how their names end."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(content.decode("utf-8-sig"))
        section = parser["Sequence"]
        length, height, width = (int(section[key]) for key in ("seqLength", "imHeight", "imWidth"))
        found = section["imDir"], length, (height, width), section["imExt"]
    except (configparser.Error, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: lacks imDir, seqLength, imWidth, imHeight or imExt of a [Sequence] "
            f"({' '.join(str(error).split())}); restore the file"
        ) from error
    if min(length, height, width) < 1:
        raise InputError(f"{path}: tells of {length} frames of {height} x {width}; restore the file")
    return found


def _read_boxes(path: Path, content: bytes, length: int, image_size: tuple[int, int]) -> dict[int, list[Box]]:
    """The boxes of each frame that has some, in the table's order."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a table in UTF-8 text ({error}); restore the file") from error
    boxes: dict[int, list[Box]] = {}
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {line_number}"
        cells = line.split(",")
        if len(cells) < 9:
            raise InputError(f"{where} has {len(cells)} cells, not {_COLUMNS}; restore the file")
        try:
            frame, track, number = (int(cells[i]) for i in (0, 1, 7))
            left, top, width, height, considered, visibility = (float(cells[i]) for i in (2, 3, 4, 5, 6, 8))
        except ValueError as error:
            raise InputError(f"{where}: {error}; its cells are {_COLUMNS}, all of them numbers") from error
        if not all(map(math.isfinite, (left, top, width, height, considered, visibility))):
            raise InputError(f"{where}: has a cell that is not a finite number; its cells are {_COLUMNS}")
        if not 1 <= number <= CLASSES:
            raise InputError(f"{where}: has the unknown class {number}; MOTChallenge's classes are 1 to {CLASSES}")
        if not 1 <= frame <= length:
            raise InputError(
                f"{where}: is of frame {frame}, seqinfo.ini tells of frames 1 to {length}; correct one of them"
            )
        if not considered or number != PEDESTRIAN:
            continue
        box = Box(number, track, left - 1, top - 1, left - 1 + width, top - 1 + height)
        # People are annotated whole, so who walks out of view still has a box, of which nothing is seen.
        if visibility == 0 and min(width, height) > 0 and is_outside(box, image_size):
            continue
        check_box(box, image_size, f"{where}: object {track} in frame {frame}")
        boxes.setdefault(frame, []).append(box)
    return boxes


def _file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a folder; none where there is no such folder."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _read(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"--dataset: {path} cannot be read ({error.strerror}); {expected}") from error
