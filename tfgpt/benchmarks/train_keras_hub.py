"""A peer of `tfgpt bench train`, in a process of its own: keras-hub's GPT-2 as its users train it, with `fit`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tfgpt.benchmarks.training_work import OPTIMIZER, Work
from tfgpt.quick import skip_pictures


def main() -> None:
    """Do the work, print one JSON line."""
    skip_pictures()
    work = Work.given()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    import keras
    import keras_hub

    keras.config.set_dtype_policy("mixed_bfloat16" if work.precision == "bfloat16" else work.precision)
    model = _model(work)
    model.compile(
        optimizer=_optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    means = _Means()

    def call(ids: np.ndarray, labels: np.ndarray, first: int) -> list[float]:
        rows = {"token_ids": ids.reshape(-1, ids.shape[-1]), "padding_mask": np.ones((ids[..., 0].size, ids.shape[-1]))}
        model.fit(
            rows, labels.reshape(-1, labels.shape[-1]), batch_size=ids.shape[1], shuffle=False, verbose=0,
            callbacks=[means.callback],
        )  # fmt: skip
        return means.taken()

    found = work.timed(call)
    with_xla = "compiled" if model.jit_compile else "not compiled"
    print(json.dumps(found | {"with": f"keras-hub {keras_hub.__version__}, {with_xla}"}))


class _Means:
    """The loss of each step, out of the running means that `fit` shows."""

    def __init__(self) -> None:
        import keras

        self._seen: list[float] = []
        self.callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self._seen.append(float(logs["loss"]))
        )

    def taken(self) -> list[float]:
        seen, self._seen = self._seen, []
        sums = [mean * count for count, mean in enumerate(seen, 1)]
        return [high - low for low, high in zip([0.0, *sums], sums, strict=False)]


def _model(work: Work):
    """GPT2CausalLM without dropout, with our first weights."""
    import keras_hub

    sizes = work.sizes
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=sizes["n_vocab"],
        num_layers=sizes["n_layer"],
        num_heads=sizes["n_head"],
        hidden_dim=sizes["n_embd"],
        intermediate_dim=4 * sizes["n_embd"],
        dropout=0.0,
        max_sequence_length=sizes["n_ctx"],
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    for weight in model.weights:
        weight.assign(_first(Path(work.weights), weight.path).reshape(-1)[: _size(weight)].reshape(weight.shape))
    return model


def _size(weight) -> int:
    return int(np.prod(weight.shape))


WHOLE = {
    "token_embedding": "wte.weight",
    "position_embedding": "wpe.weight",
    "layer_norm": "ln_f",
    "self_attention_layer_norm": "ln_1",
    "feedforward_layer_norm": "ln_2",
    "attention_output": "attn.c_proj",
    "feedforward_intermediate_dense": "mlp.c_fc",
    "feedforward_output_dense": "mlp.c_proj",
}


def _first(folder: Path, path: str) -> np.ndarray:
    """Our first weight under their name: query, key and value are one matrix in GPT-2; the table ends in padding."""
    *places, kind = path.split("/")
    block = f"h.{places[0].removeprefix('transformer_layer_')}." if places[0].startswith("transformer_layer_") else ""
    end = {"kernel": ".weight", "gamma": ".weight", "bias": ".bias", "beta": ".bias", "embeddings": ""}[kind]
    if places[-1] in ("query", "key", "value"):
        joined = np.load(folder / f"{block}attn.c_attn{end}.npy", mmap_mode="r")
        return np.split(joined, 3, axis=-1)[("query", "key", "value").index(places[-1])]
    return np.load(folder / f"{block}{WHOLE[places[-1]]}{end}.npy", mmap_mode="r")


def _optimizer():
    """AdamW; decay for matrices only, as ours."""
    import keras

    optimizer = keras.optimizers.AdamW(
        OPTIMIZER["lr"],
        weight_decay=OPTIMIZER["weight_decay"],
        beta_1=OPTIMIZER["beta1"],
        beta_2=OPTIMIZER["beta2"],
        epsilon=OPTIMIZER["epsilon"],
        global_clipnorm=OPTIMIZER["clip"],
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


if __name__ == "__main__":
    main()
