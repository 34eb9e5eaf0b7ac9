"""What never exists at once: scores of all heads over a whole context, and the logits of a whole batch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.model.conftest import made
from tfgpt.model import loss


def sizes(function, *shapes):
    """Numbers of elements of all tensors in the graph of a gradient, functions inside functions too."""
    import tensorflow as tf

    graph = tf.function(function).get_concrete_function(*(tf.TensorSpec(s, tf.int32) for s in shapes)).graph
    graphs, found = [graph], []
    while graphs:
        graph = graphs.pop()
        graphs += [f.graph for f in graph._functions.values() if hasattr(f, "graph")]
        for operation in graph.get_operations():
            found += [(math.prod(t.shape), t.name, t.shape) for t in operation.outputs if t.shape.is_fully_defined()]
    return sorted(found, key=lambda item: item[0], reverse=True)


def gradient_of(gpt, key=None):
    return lambda ids, labels: gpt.parts().gradients(gpt.values(), ids, labels, names=list(gpt.table), key=key)[1]


@pytest.mark.parametrize("recompute", ["none", "block"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_no_matrix_of_all_scores(key, recompute, rate):
    gpt = made(n_ctx=1024, n_head=8, n_embd=32, n_layer=1, attn_dropout=rate, recompute=recompute)
    found = sizes(gradient_of(gpt, key), (1, 1024), (1, 1024))
    assert len(found) > 200
    size, name, shape = found[0]
    # The largest are the scores of the last block of queries, against all keys.
    assert size == 8 * 256 * 1024 < 8 * 1024 * 1024, f"{name} {shape}"


def test_local_attention_has_scores_of_spans_only():
    gpt = made(n_ctx=4096, n_head=8, n_embd=16, n_layer=1, local=True, fixed_attn_block_size=32, n_vocab=64)
    size, name, shape = sizes(gradient_of(gpt), (1, 4096), (1, 4096))[0]
    assert size <= 8 * (4096 + 32) * 32, f"{name} {shape}"


def test_no_matrix_of_all_logits(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 1024 * 1024)
    gpt = made(n_ctx=512, n_vocab=32768, n_embd=8, n_head=1, n_layer=1)
    found = sizes(gradient_of(gpt), (1, 512), (1, 512))
    rows = 32768
    largest = max(size for size, _, shape in found if shape[-1:] == [rows])
    assert largest <= 4 * 1024 * 1024 / 4 < 512 * rows
    assert found[0][0] <= 1024 * 1024
    parts = [shape for _, _, shape in found if shape.rank == 2 and shape[-1] == rows]
    assert parts and all(np.prod(shape) <= 1024 * 1024 for shape in parts)


def test_an_evaluation_multiplies_with_the_vocabulary_once(monkeypatch):
    """One product a part of the tokens, that of the logits; with gradients there are three."""
    import tensorflow as tf

    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 1024 * 1024)
    gpt = made(n_ctx=512, n_vocab=8192, n_embd=8, n_head=1, n_layer=1)

    def products(run):
        spec = tf.TensorSpec((1, 512), tf.int32)
        operations = tf.function(run).get_concrete_function(spec, spec).graph.get_operations()
        shapes = [[*op.inputs[0].shape, *op.inputs[1].shape] for op in operations if "MatMul" in op.type]
        return sum(8192 in shape for shape in shapes)

    parts = 512 // loss.chunk_size(512, 8192)
    assert parts == 4 and products(lambda *given: gpt.parts().loss(gpt.values(), *given)) == parts
    assert products(gradient_of(gpt)) == 3 * parts
