"""Batch norm over the samples of all processes, on any device and any backend.

    x (B, C, ...) of each process -> mean and variance (C) of all of them -> (B, C, ...)

``torch.nn.SyncBatchNorm`` runs on GPUs alone. This one sends plain tensors, so that a training on
the CPU takes the same steps on 1, 2 and 4 processes, and a process whose share of a batch is empty
takes part without adding to the statistics. Parameters and buffers keep their names: a checkpoint
does not say on how many processes it was trained. Ioffe and Szegedy 2015; the variances of the
processes are combined as in Chan et al. 1983.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samcancer.errors import InputError

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SharedBatchNorm(_BatchNorm):
    """Takes the place of a batch norm in a network that several processes train."""

    counts = True
    """Whether this process's samples are of the batch."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over the parameters and buffers of a batch norm."""
        super().__init__(
            norm.num_features,
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
        )
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...); at inference the running statistics are used as ever."""
        if not self.training:
            return super().forward(x)
        amount, mean, variance = _statistics(x.detach().float(), counts=self.counts)
        self._follow(amount, mean, variance)
        weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
        if self.affine:
            weight, bias = self.weight, self.bias
        scale = torch.rsqrt(variance + self.eps)
        y: Tensor = _Normalise.apply(x.float(), weight, bias, mean, scale, amount, self.counts)
        return y.to(x.dtype)

    def _check_input_dim(self, _input: Tensor) -> None:
        """Take any number of dimensions, as the norm that this one replaces has checked them."""

    def _follow(self, amount: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Let the running statistics follow, of the unbiased variance as torch does."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # it comes with them
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (amount / (amount - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(unbiased.to(self.running_var), share)


def share_batch_norms(model: nn.Module) -> list[SharedBatchNorm]:
    """Replace every batch norm of a network, in place; return the new ones.

    Raises:
        InputError: When the network has a batch norm of a kind that cannot be replaced.
    """
    shared = []
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if type(child) in _PLAIN:
                norm = SharedBatchNorm(child)
                setattr(module, child_name, norm)
                shared.append(norm)
            elif isinstance(child, _BatchNorm):
                raise InputError(
                    f"{name}.{child_name} is a {type(child).__name__}, whose statistics several "
                    "processes cannot share",
                    mend="train in one process, or choose another backbone",
                )
    return shared


def _statistics(x: Tensor, *, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of values a channel, their mean and their variance, over all processes."""
    channels = x.shape[1]
    own = x.new_zeros(2 * channels + 1, dtype=torch.float32)
    if counts:
        variance, mean = torch.var_mean(x, dim=_other_axes(x), correction=0)
        own = torch.cat([mean, variance, own.new_tensor([x.numel() / channels])])
    everyone = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(everyone, own)
    table = torch.stack(everyone).double()
    means, variances, amounts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    amount = amounts.sum().clamp(min=1)
    mean = (amounts * means).sum(dim=0) / amount
    variance = (amounts * (variances + (means - mean).square())).sum(dim=0) / amount
    return amount.float(), mean.float(), variance.float()


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale * weight + bias; its gradient also goes through the shared statistics."""

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        scale: Tensor,
        amount: Tensor,
        counts: bool,
    ) -> Tensor:
        context.save_for_backward(x, weight, mean, scale, amount)
        context.counts = counts
        y = x - _along(mean, x)
        return y.mul_(_along(scale * weight, x)).add_(_along(bias, x))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, mean, scale, amount = context.saved_tensors
        centred, axes = x - _along(mean, x), _other_axes(x)
        of_bias, product = gradient.sum(dim=axes), (gradient * centred).sum(dim=axes)
        sums = torch.cat([of_bias, product])
        torch.distributed.all_reduce(sums)
        factor = scale * weight
        of_x = gradient * _along(factor, x)
        if context.counts:
            through_mean, through_scale = (sums / amount).chunk(2)
            of_x.addcmul_(centred, _along(through_scale * scale.square() * factor, x), value=-1)
            of_x.sub_(_along(through_mean * factor, x))
        return of_x, product * scale, of_bias, None, None, None, None


def _other_axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Shape a value a channel so that it spreads over (B, C, ...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
