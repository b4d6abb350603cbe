"""TorchScript archives of any tensors, the form in which OpenAI published CLIP."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Tree(nn.Module):
    """Modules that hold tensors under the names of a state dict."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def tree_of(state: dict[str, Tensor]) -> Tree:
    root = Tree()
    for name, tensor in state.items():
        *folders, leaf = name.split(".")
        module: nn.Module = root
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, Tree())
            module = module.get_submodule(folder)
        if tensor.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(tensor))
        else:
            module.register_buffer(leaf, tensor)
    return root


def save_torchscript(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as OpenAI published CLIP: a TorchScript archive of a tree of modules."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        torch.jit.script(tree_of(state)).save(str(path))
