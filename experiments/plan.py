"""What a run is going to do, before it does it: passes over the images, memory, disk."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from experiments.config import RunConfig
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell, RowShape
from vitprobe_jax.types import Split

MB = 1 << 20
ON_HAND = 3
"""Shards of a cell in memory as they are extracted: one that fills, one that is written, one that a write copies."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bytes of features that may be held at a time.

    Attributes:
        host: in the memory of a process.
        device: on each of its devices.
    """

    host: int
    device: int


def memory_bounds(config: RunConfig) -> Bounds:
    """What `--host_memory` and `--device_memory` ask for, or what the machine allows."""
    machine = _machine_memory()
    stats = jax.local_devices()[0].memory_stats() or {}
    device = int(stats["bytes_limit"] * 0.6) if "bytes_limit" in stats else machine // 4
    return Bounds(config.host_memory * MB or machine // 2, config.device_memory * MB or device)


@dataclasses.dataclass(frozen=True)
class BackbonePlan:
    """What is done for one backbone.

    Attributes:
        backbone: its name.
        cells: (block, token) pairs that are not finished.
        shapes: of the rows of each split.
        passes: the cells that one pass over the images serves, in turn.
        resident: splits whose table is on the devices as a whole; others are streamed in row blocks.
        on_disk: whether rows are kept in the cache.
        cached: share of the wanted shards that is there already, 0 to 1.
    """

    backbone: str
    cells: tuple[Cell, ...]
    shapes: Mapping[Split, RowShape]
    passes: tuple[tuple[Cell, ...], ...]
    resident: tuple[Split, ...]
    on_disk: bool
    cached: float = 0.0

    @property
    def images(self) -> int:
        """Images that go through the backbone, all passes and splits."""
        return len(self.passes) * sum(shape.num_images for shape in self.shapes.values())


def plan_backbone(
    backbone: str, cells: Sequence[Cell], shapes: Mapping[Split, RowShape], bounds: Bounds, *, on_disk: bool
) -> BackbonePlan:
    """Packs the cells into as few passes as the bounds allow, and chooses how tables reach the devices.

    Raises:
        InputError: the rows of a single cell do not fit the memory of the host, and there is no cache to put them in.
    """
    of_cell = sum(shape.bytes for shape in shapes.values())
    if on_disk:
        in_memory = ON_HAND * max(shape.image_bytes * shape.shard_images for shape in shapes.values())
    elif of_cell > bounds.host:
        raise InputError(
            f"--host_memory: one token of one block of {backbone} takes {of_cell // MB + 1} MiB, more than the "
            f"{bounds.host // MB} MiB that are allowed; give --cache_dir, fewer --patches_per_image, or --dtype=bfloat16"
        )
    else:
        in_memory = of_cell
    together = max(1, bounds.host // in_memory)
    passes = tuple(tuple(cells[i : i + together]) for i in range(0, len(cells), together))
    resident, left = [], bounds.device
    for split, shape in shapes.items():
        if shape.bytes <= left:
            resident.append(split)
            left -= shape.bytes
    return BackbonePlan(backbone, tuple(cells), shapes, passes, tuple(resident), on_disk)


def format_plan(
    plans: Sequence[BackbonePlan],
    finished: Mapping[str, int],
    bounds: Bounds,
    *,
    fits: Mapping[str, int] | None = None,
) -> str:
    """The plans as lines of text.

    Args:
        plans: one a backbone.
        finished: cells that are finished, by backbone.
        bounds: bounds on the memory that features may take.
        fits: by backbone, cells that are left to fit, where there are more than rules: with several seeds.
    """
    lines = [
        f"plan: features in memory at most {bounds.host // MB} MiB (--host_memory), on a device "
        f"{bounds.device // MB} MiB (--device_memory)"
    ]
    for plan in plans:
        done = finished[plan.backbone]
        if not plan.cells:
            lines.append(f"  {plan.backbone}: all {done} cells are finished")
            continue
        tables = ", ".join(
            f"{split} {shape.num_images} x {shape.num_rows} x {shape.width} {shape.dtype} ({shape.bytes / MB:.1f} MiB, "
            f"{'on the devices' if split in plan.resident else 'streamed'})"
            for split, shape in plan.shapes.items()
        )
        total = len(plan.cells) * sum(shape.bytes for shape in plan.shapes.values())
        where = f"on disk, {plan.cached:.0%} there" if plan.on_disk else "in memory, pass by pass"
        lines += [
            f"  {plan.backbone}: {len(plan.cells)} (block, token) pairs, {done} cells finished",
            f"    a table: {tables}",
            f"    all tables: {total / MB:.1f} MiB {where}",
            f"    {len(plan.passes)} pass{'es' * (len(plan.passes) > 1)} over the images, {plan.images} images in all",
        ]
        if fits:
            lines.append(
                f"    {fits[plan.backbone]} fits: each pair under each rule and seed, all on the same features"
            )
    return "\n".join(lines)


def _machine_memory() -> int:
    """Bytes of this machine, or of the container that it is."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        text = path.read_text().strip() if path.exists() else ""
        if text.isdecimal():
            total = min(total, int(text))
    return total
