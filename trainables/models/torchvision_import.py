"""Makes torchvision importable with a build of torch that does not match its compiled operators."""

from __future__ import annotations

import functools
import sys
from typing import Any

# Imports inside functions: operators must be declared before torchvision is imported.

# torchvision registers fake kernels for these, even if its library did not load.
_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def declare_missing_operators() -> None:
    """Declares the operators that the import of torchvision needs if its compiled library cannot load.

    With a CPU build of torch, a torchvision built for CUDA has no `torchvision::nms`, and `import
    torchvision` fails. The schemas are enough for the import; timm and open_clip never call the operators.
    Call this before importing timm, open_clip or torchvision. If torchvision works, this does nothing.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        import torch

        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # partly imported: the next import starts again
        for operator, schema in _SCHEMAS.items():
            torch.library.define(operator, schema)


def import_peft() -> Any:
    """Returns PEFT, whose import takes a second and imports torchvision through transformers."""
    declare_missing_operators()
    import peft

    return peft
