"""Data sets of this project as tfds builders, into array_record files that are read at random without TensorFlow.

Importing the package makes `imagenet200` and `broden` known to `tfds.builder`. Both read what a user has got by hand
(tfds's `manual_dir`) and write the images and masks that are annotated, in the order of the data set that is read in place.
"""

import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

from vitprobe_jax.data.imagenet200 import ARCHIVE
from vitprobe_jax.data.tfds_builders.broden import Broden
from vitprobe_jax.data.tfds_builders.imagenet200 import Imagenet200, Imagenet200Config
from vitprobe_jax.data.tfds_dataset import FILE_FORMAT
from vitprobe_jax.errors import InputError


def build(spec: str, *, data_dir: str | Path | None = None, seed: int = 0) -> tfds.core.DatasetBuilder:
    """Builds a data set from what lies in a folder; `tfds:NAME` then opens it.

    Args:
        spec: `imagenet200:DIR` or `broden:DIR`, as for `--dataset`.
        data_dir: tfds's folder; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        seed: which images of imagenet200 are drawn; each seed is a configuration of its own, `imagenet200/seed0`. Broden
            is taken whole.

    Returns:
        The builder, its files written.

    Raises:
        InputError: the spec names none of the two, the source is unfit in whatever way opening it in place would refuse,
            an image of Broden cannot be decoded, the data set is built already, or its files cannot be written.
    """
    kind, _, folder = spec.partition(":")
    source = Path(folder).expanduser()
    if kind not in ("imagenet200", "broden") or not folder:
        raise InputError(f"--dataset: {spec!r} is nothing to build; give imagenet200:DIR or broden:DIR")
    if source.name == ARCHIVE and source.is_file():
        # tfds takes folders alone; the builder finds the archive in it, or the same images unpacked.
        source = source.parent
    if not source.is_dir():
        raise InputError(f"--dataset: {source} is no folder that exists, nor {ARCHIVE}; give one of them")
    target = None if data_dir is None else Path(data_dir).expanduser()
    if kind == "imagenet200":
        config = Imagenet200Config(seed=seed)
        # tfds refuses a second configuration of a name that it knows, be it the same.
        builder = Imagenet200(config=Imagenet200.builder_configs.get(config.name, config), data_dir=target)
    else:
        builder = Broden(data_dir=target)
    if builder.is_prepared():
        raise InputError(
            f"--data_dir: {builder.data_dir} is built already, maybe from other files; use it by "
            f"--dataset=tfds:{builder.info.full_name.rpartition('/')[0]}@{builder.data_dir_root}, or delete it first"
        )
    by_hand = tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
    try:
        # Nothing is downloaded; tfds makes empty folders for it all the same.
        with tempfile.TemporaryDirectory() as downloads:
            builder.download_and_prepare(download_dir=downloads, download_config=by_hand, file_format=FILE_FORMAT)
    except OSError as error:
        raise InputError(f"--data_dir: {builder.data_dir} cannot be written ({error}); give another folder") from error
    return builder
