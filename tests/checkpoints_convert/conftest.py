"""What several test files here share: the specimens' files, conversions that write nothing, a host of our own."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.checkpoints_convert.conversions import leaves
from tests.checkpoints_convert.official_host import Host, serving
from vitprobe_jax.backbones import saving

if TYPE_CHECKING:
    from tests.checkpoints_convert.official import Official


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> Callable[[str], "Official"]:
    """The official file of a specimen by its name, written when it is first asked for."""
    # Not above: it waits for timm and transformers, which tests of other things do without.
    from tests.checkpoints_convert.official import Official, write

    files: dict[str, Official] = {}

    def get(name: str) -> Official:
        if name not in files:
            files[name] = write(name, tmp_path_factory.mktemp(name))
        return files[name]

    return get


@pytest.fixture
def unwritten(monkeypatch) -> dict[str, dict[tuple[str, ...], np.ndarray]]:
    """Conversions read every parameter, and keep it here instead of in Orbax's folders, which take most of their time.

    By folder (`params`, `decoder`) and path in the tree; every value is as it was announced.
    """
    kept: dict[str, dict[tuple[str, ...], np.ndarray]] = {}

    def write(path: Any, tree: Any) -> str:
        path.mkdir()
        kept[path.name] = {}
        for place, leaf in leaves(tree):
            value = leaf.read()
            assert (leaf.path, leaf.shape, leaf.dtype) == (place, value.shape, value.dtype)
            kept[path.name][place] = value
        return "digest"

    monkeypatch.setattr(saving, "_write", write)
    return kept


@pytest.fixture
def host(monkeypatch) -> Iterator[Host]:
    """A host for downloads; no proxy stands before it."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as host:
        yield host
