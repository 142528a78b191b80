"""torchvision, timm and transformers beside a CPU build of torch: import this module before them.

torchvision registers the shape rules of its compiled operators `nms` and `qnms` at import. Beside a torch that its
binary was not built for, the operators are not there, and the import fails. Declaring them is enough: nothing here calls
them. `from experiments.benchmarks.torch_ops import torchvision` keeps the order whatever sorts the imports.
"""

import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def define_torchvision_ops() -> None:
    """Declares the operators that torchvision could not load; does nothing where it loads."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", _NMS)


define_torchvision_ops()

import torchvision  # noqa: E402, F401
