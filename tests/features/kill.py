"""A process that fills a cache and is killed at one of its writes."""

import itertools
import os
import signal

import tensorstore as ts
from etils import epath

from tests.features.stores import fill


def killed_at(step: int, root: str) -> None:
    """Fills the cache; SIGKILL strikes before (even steps) or after (odd ones) the write number `step // 2`."""
    steps = itertools.count()

    def struck(act):
        def run(*arguments, **options):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = act(*arguments, **options)
            if hasattr(result, "result"):
                result.result()
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run

    os.replace = struck(os.replace)
    plain_open = ts.open
    ts.open = lambda spec, **options: (struck(plain_open) if options.get("create") else plain_open)(spec, **options)
    view = type(plain_open({"driver": "array", "array": [0], "dtype": "int32"}).result())
    view.write = struck(view.write)
    fill(epath.Path(root))
