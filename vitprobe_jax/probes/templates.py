"""Templates as files: saved beside the results, loaded again, applied to new images."""

import dataclasses
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.extract import select_rows
from vitprobe_jax.features.moments import variant_name
from vitprobe_jax.probes.cosine import cosines
from vitprobe_jax.probes.feature_norm import Affine
from vitprobe_jax.types import HYPERPLANE_RULES, Concept, Rule, Task, Token

CONCEPT_AXIS: dict[Rule, dict[str, int]] = {
    "hyperplane": {"w": 0, "b": 0},
    "hyperplane_paper": {"w": 0, "b": 0},
    "cosine": {"alpha": 2, "t": 2},
    "cosine_centered": {"alpha": 2, "t": 2},
}
"""Along which axis of the arrays of a template file the concepts run; others are shared by all of them."""


@dataclasses.dataclass(frozen=True)
class Templates:
    """All templates of one backbone, layer, token and rule.

    Attributes:
        task: which rows they are for: patches (`segmentation`) or the global row (`classification`).
        backbone: name of the backbone they were fitted on, or of its variant without some features
            (`moments.variant_name`).
        layer: block number.
        token: token name.
        rule: how they decide.
        concepts: the K concepts that have a template.
        arrays: hyperplane rules: `w` [K, D] in float32, `b` [K] in float64, the threshold of `w @ z` for raw rows, and
            `shift` [D] in float32, around which margins are computed (0 in files without it). cosine rules: `alpha`
            [shots, trials, K, D], `t` [shots, trials, K], and the feature norm's `shift` [D] and `scale` [D]. All apply to
            raw tokens. Features that are left out have a `w` of 0, or an infinite `scale`.
        shots: shot counts of the first axis of `alpha`; () for hyperplanes.
        dropped: how many features of highest variance are left out.
    """

    task: Task
    backbone: str
    layer: int
    token: Token
    rule: Rule
    concepts: tuple[Concept, ...]
    arrays: dict[str, Float[np.ndarray, "..."]]
    shots: tuple[int, ...] = ()
    dropped: int = 0

    def take(self, places: Sequence[int] | Int[np.ndarray, " n"]) -> "Templates":
        """Those of some concepts, by their places in `concepts`."""
        places = np.asarray(places, int)
        chosen = {name: self.arrays[name].take(places, axis) for name, axis in CONCEPT_AXIS[self.rule].items()}
        concepts = tuple(self.concepts[place] for place in places)
        return dataclasses.replace(self, concepts=concepts, arrays=self.arrays | chosen)

    def most_shots(self) -> "Templates":
        """Of every concept the one template of the most shots and the first trial; hyperplanes are returned as they are."""
        if self.rule in HYPERPLANE_RULES:
            return self
        # Copies, so that the other templates can be forgotten.
        chosen = {name: self.arrays[name][-1:, :1].copy() for name in CONCEPT_AXIS[self.rule]}
        return dataclasses.replace(self, arrays=self.arrays | chosen, shots=self.shots[-1:])

    def margins(self, rows: Float[Array | np.ndarray, "*rows D"]) -> Float[Array, "*rows templates"]:
        """How far raw rows lie on the positive side: `w @ z - b`, or `cosine(z, alpha) - t`; a row is found at 0 or more.

        Hyperplanes are computed as `w @ (z - shift) - (b - w @ shift)`: rows of large means lose their digits in `w @ z`.

        Margins differ by float32 rounding between batches of different shapes. The t of cosine templates allows for that
        (`cosine.SLACK`), so support rows that the threshold accepted are found in every batch.

        The last axis runs over concepts; for cosine rules over (shots, trials, concepts) flattened, in this order.
        """
        rows = jnp.asarray(rows, jnp.float32)
        if self.rule in HYPERPLANE_RULES:
            w, b, shift = self.hyperplanes()
            lead = (1,) * (rows.ndim - 1)
            rows = rows - shift.reshape(*lead, -1)
            scores = jnp.einsum("...d,kd->...k", rows, w, precision=jax.lax.Precision.HIGHEST)
            return scores - b.reshape(*lead, -1)
        rows = Affine(jnp.asarray(self.arrays["shift"]), jnp.asarray(self.arrays["scale"]))(rows)
        alpha = jnp.asarray(self.arrays["alpha"]).reshape(-1, rows.shape[-1])
        return cosines(rows, alpha) - self.arrays["t"].reshape((1,) * (rows.ndim - 1) + (-1,))

    def hyperplanes(self) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, " K"], Float[np.ndarray, " D"]]:
        """w, b and shift of hyperplane rules in float32: a row z is positive where `w @ (z - shift) - b >= 0`."""
        w, b = self.arrays["w"], self.arrays["b"]
        shift = self.arrays.get("shift", np.zeros(w.shape[1], np.float32))
        # In float64, since both terms may be far larger than their difference.
        around = b.astype(np.float64) - w.astype(np.float64) @ shift.astype(np.float64)
        return w, around.astype(np.float32), shift

    def predict(
        self,
        backbone: Backbone,
        images: UInt8[np.ndarray, "B height width 3"],
        *,
        gsd: Float[np.ndarray, " B"] | None = None,
    ) -> Bool[np.ndarray, "B *grid templates"]:
        """Where each concept is found on new images.

        Args:
            backbone: the one that the templates were fitted on, whole also where they leave out features.
            images: RGB in 0..255, sides multiples of the patch size.
            gsd: metres a pixel of each image, for backbones whose positions know it: give what the sweep was given as
                `--gsd`. That of the backbone's config (1, as it was converted) unless given.

        Returns:
            [B, rows, columns, K] on the patch grid for segmentation, [B, K] for classification; the last axis as in
            `margins`.

        Raises:
            InputError: another backbone than that of the templates.
        """
        if variant_name(backbone.spec.name, self.dropped) != self.backbone:
            raise InputError(f"these templates were fitted on {self.backbone}, not on {backbone.spec.name}")
        config = backbone.spec.config
        tokens = backbone.tokens(images, [(self.layer, self.token)], gsd=gsd)[self.layer, self.token]
        found = np.asarray(self.margins(select_rows(tokens, config, self.task)) >= 0)
        if self.task == "classification":
            return found[:, 0]
        grid = (images.shape[1] // config.patch_size, images.shape[2] // config.patch_size)
        return found.reshape(len(images), *grid, -1)


def template_path(folder: epath.Path, layer: int, token: Token, rule: Rule) -> epath.Path:
    """Where the templates of one cell stand in a backbone's folder."""
    return folder / f"{layer}_{token}_{rule}.safetensors"


def save_templates(path: epath.PathLike, templates: Templates) -> None:
    """Writes whole or not at all; `concepts` [K] holds the label numbers, the header everything else."""
    record = dataclasses.asdict(templates)
    del record["arrays"]
    numbers = np.array([concept.number for concept in templates.concepts], np.int32)
    arrays = {name: np.ascontiguousarray(array) for name, array in templates.arrays.items()}
    write_whole(path, save({**arrays, "concepts": numbers}, metadata={"templates": json.dumps(record)}))


def load_templates(path: epath.PathLike) -> Templates:
    """Reads what `save_templates` wrote.

    Raises:
        InputError: no such file, or not a template file.
    """
    try:
        content = epath.Path(path).read_bytes()
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"]["templates"])
        del arrays["concepts"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a readable template file ({error}); run the sweep again") from error
    concepts = tuple(Concept(**concept) for concept in record.pop("concepts"))
    return Templates(**{**record, "concepts": concepts, "shots": tuple(record["shots"])}, arrays=arrays)


def check_finite(*arrays: Float[np.ndarray, "K ..."], what: str = "the template") -> dict[int, str]:
    """The templates that are not finite, with the reason to report: index along the first axis -> words.

    `what` names the arrays in the reason.
    """
    finite = [np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in arrays if len(array)]
    if not finite:
        return {}
    bad = np.flatnonzero(~np.logical_and.reduce(finite))
    return {int(k): f"diverged: {what} is not finite" for k in bad}
