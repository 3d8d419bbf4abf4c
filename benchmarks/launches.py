"""Counting the operations that reach a device: on a GPU each of them is a kernel launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that launch nothing: views, and memory that is not written to.
VIEWS = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "expand", "lift_fresh", "permute", "reshape"),
    *("select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze"),
    *("view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}
#: Operations whose result, or the size of it, the host waits for.
WAITS = {
    *("_local_scalar_dense", "_unique2", "bincount", "equal", "is_nonzero", "item", "masked_select", "nonzero"),
    "unique",
}


class Launches(TorchDispatchMode):
    """While it is entered, `by_name` counts what is launched and `waits` what the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, _types: Sequence[type], arguments: tuple[Any, ...] = (), keywords: Any = None
    ) -> Any:
        name = function.name().split("::")[1].split(".")[0]
        if name not in VIEWS:
            self.by_name[name] += 1
        # A mask as an index is looked through for its true entries.
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype is torch.bool for index in arguments[1]
        )
        if name in WAITS or masked:
            self.waits[name] += 1
        return function(*arguments, **(keywords or {}))


def count(function: Callable[[], object]) -> Launches:
    with Launches() as launches:
        function()
    return launches
