"""What stands before and behind the blocks: the two embeddings; the last LayerNorm and the loss over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from keras import ops

from tfgpt.model import loss
from tfgpt.model.layers import embed, norm, norm_gradient
from tfgpt.model.randomness import dropout


@dataclass(frozen=True)
class Beginning:
    """Tokens and positions looked up and added, in `dtype`."""

    dropout: float
    dtype: str

    def forward(self, ids, tokens, positions, key=None):
        """x [B, T, E] for ids [B, T] and the tables `tokens` [V, E] and `positions` [n_ctx, E]."""
        x = embed(tokens, ids) + positions[: ids.shape[1]]
        return ops.cast(dropout(x, self.dropout, key), self.dtype)

    def backward(self, dx, key=None):
        """Gradients of what was looked up, float32: of the tokens [B, T, E], and of the positions [T, E]."""
        dx = dropout(ops.cast(dx, "float32"), self.dropout, key)
        return dx, ops.sum(dx, axis=0)


@dataclass(frozen=True)
class End:
    """The last LayerNorm, the product with the tokens' table, and the loss; `in_place` as in `loss.gradients`."""

    n_vocab: int
    dtype: str
    in_place: bool = False

    def hidden(self, x, weight, bias):
        """What is multiplied with the table: [B, T, E]."""
        return norm(x, ops.cast(weight, self.dtype), ops.cast(bias, self.dtype))

    def forward(self, x, labels, table, weight, bias):
        """Sum of the losses in nats over all labels that are not negative, float32."""
        hidden, labels = self._flat(self.hidden(x, weight, bias), labels)
        return loss.cross_entropy(hidden, ops.cast(table, self.dtype), labels, n_vocab=self.n_vocab)

    def gradients(self, x, labels, table, weight, bias, scale):
        """That sum times `scale`, and its gradients of x, table, weight and bias."""
        hidden, labels = self._flat(self.hidden(x, weight, bias), labels)
        how = {"n_vocab": self.n_vocab, "scale": scale, "in_place": self.in_place}
        total, dhidden, dtable = loss.gradients(hidden, ops.cast(table, self.dtype), labels, **how)
        dx, dweight, dbias = norm_gradient(x, ops.cast(weight, self.dtype), ops.reshape(dhidden, (-1, *x.shape[1:])))
        return total, dx, dtable, dweight, dbias

    def _flat(self, hidden, labels):
        return ops.reshape(hidden, (-1, hidden.shape[-1])), ops.reshape(labels, (-1,))
