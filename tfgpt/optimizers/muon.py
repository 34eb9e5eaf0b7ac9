"""Muon (Keller Jordan, 2024) for the matrices inside the blocks, scaled as in Moonlight (arXiv:2502.16982)."""

from __future__ import annotations

import re

from keras import ops

from tfgpt.optimizers.adam import AdamW
from tfgpt.optimizers.optimizer import Shape, Slots, Tensor, average

MOMENTUM = 0.95
# Chosen by Jordan for the steepest slope at zero: five rounds take every singular value from 0.01 on to about 0.7..1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# What AdamW's updates measure on average; with it, `lr` and `weight_decay` mean the same for both kinds of weight.
RMS_OF_ADAM = 0.2
HIDDEN = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")


class Muon(AdamW):
    """Matrices inside the blocks move by their orthogonalised momentum, with one float32 of state a parameter.

    Embeddings, biases and LayerNorm are AdamW's, whose keys (`beta1`, `beta2`, `epsilon`) concern only these; the
    momentum of the matrices is 0.95. Query, key and value are three matrices that happen to be stored side by side.
    """

    def slots(self, name: str, shape: Shape) -> dict[str, Shape]:
        return {"m": shape} if is_hidden(name, shape) else super().slots(name, shape)

    def change(
        self, name: str, weight: Tensor, gradient: Tensor, slots: Slots, *, lr: Tensor, count: Tensor
    ) -> tuple[Tensor, Slots]:
        if not is_hidden(name, tuple(weight.shape)):
            return super().change(name, weight, gradient, slots, lr=lr, count=count)
        m = average(slots["m"], gradient, MOMENTUM)
        ahead = average(gradient, m, 1.0 - MOMENTUM)  # Nesterov: where the momentum will be after one more such step
        parts = parts_of(name)
        rows, columns = ahead.shape
        scale = RMS_OF_ADAM * max(rows, columns // parts) ** 0.5
        # A single matrix is not a stack of one: XLA's products of stacks take 1.6 times as long for it.
        new = join(orthogonalize(split(ahead, parts))) if parts > 1 else orthogonalize(ahead)
        return lr * scale * new, {"m": m}


def is_hidden(name: str, shape: Shape) -> bool:
    """Whether the weight `name` is a matrix between two hidden layers, which Muon is for."""
    return len(shape) == 2 and HIDDEN.fullmatch(name) is not None


def parts_of(name: str) -> int:
    """How many matrices are stored side by side as this weight."""
    return 3 if ".c_attn." in name else 1


def orthogonalize(matrices: Tensor) -> Tensor:
    """Each matrix of [..., R, C] with its singular values moved near 1 (0.7..1.2) and its directions kept.

    Five Newton-Schulz rounds in place of a singular value decomposition; a matrix of zeros stays zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = ops.swapaxes(matrices, -1, -2) if tall else matrices
    # The largest number becomes 1 first, so that neither tiny nor huge gradients leave float32 when they are squared.
    x = x / ops.maximum(ops.max(ops.abs(x), axis=(-2, -1), keepdims=True), 1e-30)
    norm = ops.sqrt(ops.sum(ops.square(x), axis=(-2, -1), keepdims=True))
    x = x / ops.maximum(norm, 1.0)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = ops.matmul(x, ops.swapaxes(x, -1, -2))  # [..., r, r] of the shorter side
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return ops.swapaxes(x, -1, -2) if tall else x


def split(matrix: Tensor, parts: int) -> Tensor:
    """[R, P * C] as [P, R, C]."""
    rows, columns = matrix.shape
    return ops.transpose(ops.reshape(matrix, (rows, parts, columns // parts)), (1, 0, 2))


def join(matrices: Tensor) -> Tensor:
    """[P, R, C] as [R, P * C]."""
    parts, rows, columns = matrices.shape
    return ops.reshape(ops.transpose(matrices, (1, 0, 2)), (rows, parts * columns))
