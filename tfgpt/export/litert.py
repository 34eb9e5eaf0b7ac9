"""A model as one .tflite file with int8 weights, for phones and small boards: LiteRT's built-in operations only."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np

from tfgpt import files
from tfgpt.errors import Failure, UserError
from tfgpt.export.keras_file import is_tanh, kinds, seen, write_beside
from tfgpt.quiet import quiet_start
from tfgpt.weights.source import Source

LARGEST = 2_000_000_000  # a .tflite file ends below 2 GiB
HIDDEN = -1e9

HOW = (
    "signature serving_default: ids int32 [1, n_ctx], position int32 [1] -> logits float32 [1, n_vocab]",
    "ids is the text so far, filled up on the right with any id; position is the index of its last id",
    "logits are those of the id that comes at position + 1: choose it, put it there, and run again",
    "a text longer than n_ctx: give its last n_ctx ids, or fewer",
    'run = Interpreter("model.tflite").get_signature_runner(); logits = run(ids=ids, position=position)["logits"]',
    "the ids are those of the tokenizer in the folder beside this file",
)


def write(source: Source, folder: str) -> None:
    """Write `folder`/model.tflite, the tokenizer in `folder`/tokenizer, and config.json, which says how to feed the model.

    The model takes `ids` int32 [1, n_ctx], filled up on the right with any id, and `position` int32 [1]; it gives `logits`
    float32 [1, n_vocab] of that position alone, so that the product with the vocabulary is done once and not n_ctx times.
    Matrices are int8, a scale for each output (dynamic-range quantisation); the token table is stored once. It keeps no
    cache: every token costs a pass over n_ctx positions, so a model for a small board wants a small n_ctx.

    GPT-2 of 124M is 130 MB, of 774M 778 MB. Converting takes half a minute for the first, five for the second, and 20 bytes
    of memory a weight or somewhat more.

    >>> write(source, "exported")                                                            # doctest: +SKIP
    >>> run = tf.lite.Interpreter("exported/model.tflite").get_signature_runner()            # doctest: +SKIP
    >>> run(ids=ids, position=np.int32([4]))["logits"].shape                                 # doctest: +SKIP
    (1, 50257)
    """
    size = sum(int(np.prod(tensor.shape)) for tensor in source.tensors.values())
    if size > LARGEST:
        raise UserError(
            f"a .tflite file holds at most 2 GiB, and the int8 weights of this model are {size / 1e9:.1f} GB",
            where=source.path,
            fix="export it in another form",
        )
    content = _converted(source)
    files.make_folder(folder)
    files.write_bytes(files.join(folder, "model.tflite"), _one_table(content))
    write_beside(source, folder, HOW)


def _converted(source: Source) -> bytes:
    import tensorflow as tf

    with quiet_start(), tempfile.TemporaryDirectory() as folder:
        saved = os.path.join(folder, "saved")
        _save(source, saved)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return converter.convert()
        except Exception as error:  # the converter's own errors are of many classes, plain Exception among them
            if "KeyboardInterrupt" in str(error):  # which it has turned into an error of its own
                raise KeyboardInterrupt from None
            raise Failure(f"LiteRT's converter could not convert this model: {error}", where=source.path) from error


def _save(source: Source, folder: str) -> None:
    """As a TensorFlow SavedModel: unlike a function in memory, it gives its signature to the converter."""
    import tensorflow as tf

    module = tf.Module()
    module.held = {name: tf.Variable(tensor.read(), trainable=False) for name, tensor in source.tensors.items()}
    ids = tf.TensorSpec([1, source.keys["n_ctx"]], tf.int32, "ids")
    position = tf.TensorSpec([1], tf.int32, "position")

    @tf.function(input_signature=[ids, position], autograph=False)
    def run(ids, position):
        return {"logits": _logits(tf, source.keys, module.held, ids, position)}

    tf.saved_model.save(module, folder, signatures={"serving_default": run.get_concrete_function()})


def _logits(tf, keys, w, ids, position):
    """The network on one text, all matrices two-dimensional: that is what becomes int8 products."""
    heads, length, approximate = keys["n_head"], keys["n_ctx"], is_tanh(keys)
    place = np.arange(length)
    masks: dict[Any, Any] = {}

    def norm(x, name):
        mean = tf.reduce_mean(x, -1, keepdims=True)
        spread = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(spread + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def dense(x, name):
        return tf.matmul(x, w[name + ".weight"]) + w[name + ".bias"]

    def split(x):  # [T, E] -> [H, T, D]
        return tf.transpose(tf.reshape(x, (length, heads, -1)), (1, 0, 2))

    x = tf.gather(w["wte.weight"], tf.reshape(ids, (-1,))) + w["wpe.weight"]  # [T, E]
    for i, kind in enumerate(kinds(keys)):
        h = f"h.{i}."
        if kind not in masks:
            masks[kind] = tf.constant(seen(np, place[:, None], place[None, :], kind))
        q, k, v = (split(part) for part in tf.split(dense(norm(x, h + "ln_1"), h + "attn.c_attn"), 3, axis=-1))
        scores = tf.matmul(q * q.shape[-1] ** -0.5, k, transpose_b=True)
        mixed = tf.matmul(tf.nn.softmax(tf.where(masks[kind], scores, HIDDEN)), v)
        x += dense(tf.reshape(tf.transpose(mixed, (1, 0, 2)), (length, -1)), h + "attn.c_proj")
        x += dense(tf.nn.gelu(dense(norm(x, h + "ln_2"), h + "mlp.c_fc"), approximate=approximate), h + "mlp.c_proj")
    return tf.matmul(norm(tf.gather(x, position), "ln_f"), w["wte.weight"], transpose_b=True)


def _one_table(content: bytes) -> bytes:
    """The file without its second copy of the token table.

    The converter gives the table at the input one scale for all rows, and at the output a scale for each: two tensors, and
    the first loses much of the rows with small values. EMBEDDING_LOOKUP can read the second.
    """
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (graph,) = model.subgraphs
    codes = [code.builtinCode for code in model.operatorCodes]

    def operations(code: int) -> list[Any]:
        return [operation for operation in graph.operators if codes[operation.opcodeIndex] == code]

    kind = schema.BuiltinOperator
    products, gathers = operations(kind.FULLY_CONNECTED), operations(kind.GATHER)
    shared = int(products[-1].inputs[1])
    rows = list(graph.tensors[shared].shape)
    for gather in gathers:
        table, ids = (int(i) for i in gather.inputs)
        back = [one for one in operations(kind.DEQUANTIZE) if one.inputs[0] == gather.outputs[0]]
        if list(graph.tensors[table].shape) != rows or table == shared or not back:
            continue
        lookup = schema.OperatorCodeT()
        lookup.builtinCode = lookup.deprecatedBuiltinCode = kind.EMBEDDING_LOOKUP
        lookup.version = 4  # the first that knows a scale for each row
        model.operatorCodes.append(lookup)
        gather.opcodeIndex, gather.inputs, gather.outputs = len(model.operatorCodes) - 1, [ids, shared], back[0].outputs
        gather.builtinOptions, gather.builtinOptionsType = None, schema.BuiltinOptions.NONE
        graph.operators.remove(back[0])
        model.buffers[graph.tensors[table].buffer].data = None
        graph.tensors[table].buffer = 0
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return content  # a small table is not quantised, and stored once
