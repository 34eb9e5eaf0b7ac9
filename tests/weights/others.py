"""Small models as other people's own code stores them: TensorFlow 1's Saver, transformers, torch."""

from __future__ import annotations

import json
import shutil

import numpy as np

SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 24, "n_ctx": 48, "n_vocab": 300}


def weights(seed=0, **sizes):
    """All of a GPT-2's weights by its own names, none of them zero or one."""
    from tfgpt.weights.source import expected

    rng = np.random.default_rng(seed)
    one = {name: 1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0 for name in expected(SIZES | sizes)}
    return {
        name: rng.normal(one[name], 0.2, shape).astype("float32") for name, shape in expected(SIZES | sizes).items()
    }


def tensorflow_name(name):
    """h.0.attn.c_attn.weight -> model/h0/attn/c_attn/w"""
    parts = name.replace("h.", "h", 1).split(".") if name.startswith("h.") else name.split(".")
    if parts[0] in ("wte", "wpe"):
        return f"model/{parts[0]}"
    last = {"weight": "g" if "ln_" in name else "w", "bias": "b"}[parts.pop()]
    return "/".join(["model", *parts, last])


def openai(folder, tokenizer=None, *, hparams=True, seed=0, **sizes):
    """A folder as OpenAI published them, written by TensorFlow's Saver; without `hparams`, as ConnorJL did."""
    import tensorflow as tf

    found, sizes = weights(seed, **sizes), SIZES | sizes
    folder.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default():
        for name, value in found.items():
            known = tensorflow_name(name)
            tf.compat.v1.get_variable(known, initializer=value[None] if known.endswith("/w") else value)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver().save(session, str(folder / "model.ckpt"))
    if hparams:
        (folder / "hparams.json").write_text(json.dumps(sizes))
        if tokenizer:
            for name in ("encoder.json", "vocab.bpe"):
                shutil.copy(tokenizer / name, folder / name)
    return found


def transformers_gpt2(found, *, activation="gelu_new", **sizes):
    """transformers' GPT-2 with these weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = SIZES | sizes
    config = GPT2Config(
        vocab_size=sizes["n_vocab"], n_positions=sizes["n_ctx"], n_embd=sizes["n_embd"], n_layer=sizes["n_layer"],
        n_head=sizes["n_head"], embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
        activation_function=activation,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.transformer.named_parameters():
            weight.copy_(torch.from_numpy(found[name]))
    return model


def logits_of(model, ids):
    """[T, n_vocab] of a transformers model."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0].numpy()


def nanogpt(path, found, **sizes):
    """nanoGPT's ckpt.pt with these weights: torch.save of its dictionary, matrices as [out, in]."""
    import torch

    sizes = SIZES | sizes
    state = {}
    for name, value in found.items():
        turned = value.T if value.ndim == 2 and name.startswith("h.") else value
        state[f"_orig_mod.transformer.{name}"] = torch.from_numpy(np.ascontiguousarray(turned))
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    arguments = {"n_layer": sizes["n_layer"], "n_head": sizes["n_head"], "n_embd": sizes["n_embd"], "bias": True}
    arguments |= {"block_size": sizes["n_ctx"], "vocab_size": sizes["n_vocab"], "dropout": 0.0}
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"optimizer": {"state": {}, "param_groups": []}, "iter_num": 7, "best_val_loss": torch.tensor(1.5)}
    torch.save({"model": state, "model_args": arguments, "config": {"dataset": "x"}, **more}, path)
