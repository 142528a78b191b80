"""What training code puts around a model's own keys: containers, prefixes, and names between two parts of a key.

DistributedDataParallel adds `module.`, torch.compile `_orig_mod.`, FSDP `_fsdp_wrapped_module.`, activation checkpointing
`_checkpoint_wrapped_module.`; training code calls its encoder `backbone`, `encoder` or `model`. DINOv2 and DINOv3 train with
blocks in chunks.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

CONTAINERS = (
    # timm's own loader prefers the moving average (`use_ema`), DeiT's takes `model`.
    *("state_dict_ema", "state_dict", "model", "model_ema", "model_state", "model_state_dict", "module"),
    *("teacher", "target_encoder", "student", "encoder"),
)
"""Keys under which training code saves weights, beside those of a family's own files, in order of preference."""

WORDS = ("module", "backbone", "encoder", "model")
"""Parts of a prefix that say nothing about the weights. `student`, `teacher` or `momentum_encoder` choose among several."""

# Names that wrappers put anywhere in a key; no model calls a part of itself so.
_INSIDE = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# facebookresearch/dinov2, models/vision_transformer.py: `blocks.CHUNK.BLOCK.`, blocks numbered through all chunks.
_CHUNKED = re.compile(r"((?:.*\.)?blocks)\.(\d+)\.(\d+)\.(.+)")
# What encoders hold under the names of timm, Hugging Face or torchvision.
_ANCHOR = re.compile(
    r"(.*?)(?:embeddings\.)?(?:cls_token|class_token|pos_embed|position_embeddings|patch_embed\.proj\.weight)"
)


def without_wrappers(keys: Iterable[str]) -> dict[str, str]:
    """By key of a file, the key without names inside it that wrappers add, and without the numbers of chunks of blocks.

    Keys stay as they are where two of them would become one.
    """
    keys = list(keys)
    plain = [_INSIDE.sub("", key) for key in keys]
    for names in (_without_chunks(plain), plain):
        if len(set(names)) == len(keys):
            return dict(zip(keys, names, strict=True))
    return {key: key for key in keys}


def _without_chunks(keys: Sequence[str]) -> list[str]:
    matches = {key: found for key in keys if (found := _CHUNKED.fullmatch(key))}
    return [f"{found[1]}.{found[3]}.{found[4]}" if (found := matches.get(key)) else key for key in keys]


def prefixes(keys: Iterable[str]) -> list[str]:
    """Every prefix of wrappers' words that a key begins with, the shortest first; the first is empty."""
    return sorted({""}.union(*(_runs(key) for key in keys)), key=len)


def forms(key: str) -> Iterator[str]:
    """A key, and what is left of it after each prefix of wrappers' words."""
    yield key
    for prefix in _runs(key):
        yield key.removeprefix(prefix)


def _runs(key: str) -> list[str]:
    runs, length = [], 0
    for part in key.split(".")[:-1]:
        if part not in WORDS:
            break
        length += len(part) + 1
        runs.append(key[:length])
    return runs


def prefix_in_the_way(keys: Iterable[str]) -> str:
    """The commonest prefix, beyond wrappers' words, before names that encoders have; empty where there is none."""
    found = Counter(match[1] for key in keys if (match := _ANCHOR.fullmatch(key)) and match[1])
    return found.most_common(1)[0][0] if found else ""


def places(contents: Mapping, own: Sequence[str | None]) -> list[str | None]:
    """Where to look for weights in a file: containers of the family's files, those of training code, then the top level."""
    order = dict.fromkeys((*own, *CONTAINERS, None))
    return [place for place in order if place is None or isinstance(contents.get(place), Mapping)]
