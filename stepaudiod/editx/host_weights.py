"""Networks whose weights stay in the host's memory: a module's are on the GPU while it runs, and only then.

Of memory-mapped weights nothing but page cache is used. Independent of networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def run_from_host(network: nn.Module, device: torch.device) -> None:
    """Have each module of a network copy its own tensors to a device for each run."""
    for module in network.modules():
        own = dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])
        if own:
            _Visits(module, own, device)


class _Visits:
    def __init__(self, module: nn.Module, own: dict[str, Tensor], device: torch.device) -> None:
        self._own, self._device = own, device
        module.register_forward_pre_hook(self._arrive)
        module.register_forward_hook(self._leave, always_call=True)

    def _arrive(self, module: nn.Module, _: object) -> None:
        for name, tensor in self._own.items():
            there = tensor.to(self._device)
            setattr(module, name, nn.Parameter(there, False) if isinstance(tensor, nn.Parameter) else there)

    def _leave(self, module: nn.Module, *_: object) -> None:
        for name, tensor in self._own.items():
            setattr(module, name, tensor)
