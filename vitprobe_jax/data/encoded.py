"""Images and masks as the bytes of an image file: what archives and record files hold.

A mask is an RGB PNG as in Broden: label = R + 256 G, B of no meaning.
"""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from vitprobe_jax.errors import InputError


def decode_image(file: BinaryIO | bytes | str | Path, source: str, *, mode: str | None = "RGB") -> Image.Image:
    """The fully decoded image, converted to `mode` where one is given.

    Args:
        file: an image of any kind that pillow knows: its bytes, or where they are.
        source: what the message calls it.
        mode: one of pillow's.

    Raises:
        InputError: the file is missing or cannot be decoded; names `source`.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.load()
            return image if mode is None else image.convert(mode)
    # On broken bytes pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError and more.
    except Exception as error:
        # pillow names the buffer that it read from, address and all.
        reason = "no image" if "BytesIO" in str(error) else str(error) or type(error).__name__
        raise InputError(f"{source}: cannot be decoded ({reason}); replace the file") from error


def encode_mask(mask: Int[np.ndarray, "sh sw"]) -> bytes:
    """The PNG of a mask of label numbers below 65,536; `decode_mask` gives the same numbers again."""
    rgb = np.stack([mask % 256, mask // 256, np.zeros_like(mask)], -1).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, "PNG")
    return content.getvalue()


def decode_mask(content: bytes, source: str) -> Int[np.ndarray, "sh sw"]:
    """The label number of every pixel, int32.

    Raises:
        InputError: the bytes cannot be decoded; names `source`.
    """
    return mask_labels(np.asarray(decode_image(content, source)))


def mask_labels(rgb: UInt8[np.ndarray, "sh sw 3"]) -> Int[np.ndarray, "sh sw"]:
    """The label number of every pixel of a mask, int32: R + 256 G."""
    return rgb[..., 0] + np.int32(256) * rgb[..., 1]
