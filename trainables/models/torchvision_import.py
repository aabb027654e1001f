"""Lets torchvision be imported beside a torch that its compiled operators were not built for."""

from __future__ import annotations

import functools
import sys
from typing import Any

# Imports inside functions: operators have to be declared before torchvision is imported.

# What importing torchvision registers fake kernels for, without asking whether its library loaded.
_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def declare_missing_operators() -> None:
    """Declares the operators that importing torchvision asks for, where its compiled library cannot load.

    Beside a CPU build of torch, a torchvision built for CUDA has no `torchvision::nms`, and `import
    torchvision` fails. The schemas alone mend the import; timm and open_clip never call the operators. Call
    this before importing timm, open_clip or torchvision. It does nothing where torchvision works.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        import torch

        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported: the next import starts over
        for operator, schema in _SCHEMAS.items():
            torch.library.define(operator, schema)


def import_peft() -> Any:
    """Returns PEFT. Its import reaches torchvision through transformers, and takes a second."""
    declare_missing_operators()
    import peft

    return peft
