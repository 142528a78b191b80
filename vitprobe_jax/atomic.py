"""Files that are written whole or not at all, on a local disk or in a bucket."""

import os
import uuid

from etils import epath


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes `content` under `path`; whatever ends the process, there stands the old file or the new one, whole.

    Locally the bytes reach the disk under another name of the same folder, which then takes the file's place. An object
    in a bucket appears whole when its upload ends.

    Args:
        path: local, or as `gs://bucket/name`; its folder exists.
        content: all of the file.
    """
    path = epath.Path(path)
    if is_remote(path):
        path.write_bytes(content)
        return
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_remote(path: epath.PathLike) -> bool:
    """Whether the path is in a bucket (`gs://`, `s3://`) and not on a disk of this machine."""
    return "://" in os.fspath(epath.Path(path))


def kvstore(folder: epath.Path) -> dict | str:
    """Tensorstore's name for a folder, on disk or in a bucket."""
    if is_remote(folder):
        return folder.as_posix() + "/"
    return {"driver": "file", "path": str(folder.resolve()) + "/"}
