"""GPT-2 as OpenAI published it and as ConnorJL, shawwn and others trained it on: a TensorFlow checkpoint and its hparams.json.

ConnorJL's have no hparams.json; all but the number of heads can be seen from the shapes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt import files, tokenizers
from tfgpt.errors import UserError
from tfgpt.weights import bundle
from tfgpt.weights.bundle import Variable
from tfgpt.weights.source import Source, Tensor, checked

PREFIX = "model.ckpt"
HPARAMS = "hparams.json"
KEYS = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
VOCABULARY = ("encoder.json", "vocab.bpe")
FLOATS = ("float32", "float64", "float16", "bfloat16")
DEEPEST = 10_000  # far above any model, far below what would fill a memory with names
# A name in a checkpoint, and one of the optimizer's variables that hangs below it, such as model/wte/AdamW_1.
NAME = r"model/(?:(?P<table>wte|wpe)|(?:h(?P<block>0|[1-9][0-9]*)/)?(?P<part>ln_[12f]|(?:attn|mlp)/c_(?:attn|proj|fc))/(?P<kind>[gbw]))"
SLOT = re.compile(rf"(?:.*/)?{NAME}/.+")


def recognises(path: str) -> bool:
    """Whether `path` looks like a TensorFlow checkpoint: its folder, its prefix (.../model.ckpt) or one of its files."""
    if not os.path.isdir(path):
        return bundle.stem(path) is not None
    names = os.listdir(path)
    # A download that stopped early is this reader's to explain; a run with HDF5 snapshots may hold the same two files.
    begun = {bundle.MARK, HPARAMS} <= set(names) and not any(name.endswith(".hdf5") for name in names)
    return begun or bool(bundle.stems(path))


def read(folder_or_prefix: str, *, n_head: int | None = None) -> Source:
    """The model in OpenAI's or ConnorJL's folder, in the run folder of an Estimator, or at a prefix such as run/model.ckpt-200.

    n_head  for a checkpoint without hparams.json; without it, heads are taken to be 64 wide

    >>> read("models/124M").keys["n_layer"]                            # doctest: +SKIP
    12
    """
    prefix, notes = _prefix(folder_or_prefix)
    beside = files.exists(os.path.join(os.path.dirname(prefix), HPARAMS))
    kind = f"{'OpenAI' if beside else 'ConnorJL'}'s GPT-2 (a TensorFlow checkpoint)"
    return assemble(bundle.read(prefix), kind=kind, path=prefix, n_head=n_head, notes=notes)


def write(source: Source, folder: str) -> None:
    """Write the files that OpenAI's own code loads (all but model.ckpt.meta, which it does not need) into an empty folder.

    A tokenizer of another kind than OpenAI's two files has no place in this format and is left out.

    >>> write(openai.read("models/124M"), "out")                       # doctest: +SKIP
    """
    _expressible(source)
    checked(source)
    vocabulary = source.tokenizer.files() if source.tokenizer else {}
    texts = {HPARAMS: json.dumps({key: int(source.keys[key]) for key in KEYS}).encode()}
    texts |= vocabulary if set(vocabulary) == set(VOCABULARY) else {}
    texts[bundle.MARK] = f'model_checkpoint_path: "{PREFIX}"\n'.encode()
    weights = [f"{PREFIX}.data-00000-of-00001", f"{PREFIX}.index"]
    taken = [name for name in [*weights, *texts] if files.exists(files.join(folder, name))]
    if taken:
        raise UserError(f"{taken[0]} is here already", where=folder, fix="name a new folder")
    tensors = {_theirs(name): _stored(name, tensor) for name, tensor in source.tensors.items()}
    needed = 4 * sum(math.prod(tensor.shape) for tensor in tensors.values())
    files.require_space(folder, needed, purpose="the checkpoint")
    try:
        bundle.write(files.join(folder, PREFIX), tensors)
        for name, content in texts.items():
            files.write_bytes(files.join(folder, name), content)
    except BaseException:
        for name in [*weights, *texts]:
            files.remove(files.join(folder, name))
        raise


def assemble(
    variables: Mapping[str, Variable], *, kind: str, path: str, n_head: int | None, notes: tuple[str, ...] = ()
) -> Source:
    """The model whose variables have OpenAI's names, from whatever container, with the files beside `path`."""
    tensors = {own: _tensor(name, variable, path) for name, variable in variables.items() if (own := _ours(name))}
    if not tensors:
        seen = ", ".join(list(variables)[:3]) or "nothing"
        raise UserError(
            "the variables here are not those of a GPT-2: none is called model/wte, model/h0/... and so on",
            where=path,
            nearest=f"found: {seen}",
            fix="name a checkpoint of OpenAI's, ConnorJL's or shawwn's GPT-2",
        )
    others = [name for name in variables if not _ours(name)]
    # No tensor of the network is a single number; counters and powers of beta are.
    unknown = [name for name in others if variables[name].shape and not SLOT.fullmatch(name)]
    if len(others) > len(unknown):
        notes += (f"left out: {len(others) - len(unknown)} variables of the optimizer and counters",)
    converted = sorted({v.dtype for name, v in variables.items() if _ours(name)} - {"float32"})
    if converted:
        notes += (f"weights kept as {' and '.join(converted)} were converted to float32",)
    folder = os.path.dirname(path)
    keys = _hparams(folder, n_head)
    if keys is None:
        keys, how = _from_shapes(tensors, path, n_head)
        notes += how
    places = [os.path.join(folder, name) for name in VOCABULARY]
    tokenizer = tokenizers.load(places[0]) if all(map(files.exists, places)) else None
    return checked(Source(kind, path, keys, tensors, tokenizer=tokenizer, notes=notes), unknown=unknown)


def _ours(name: str) -> str | None:
    """
    >>> _ours("model/h11/attn/c_attn/w"), _ours("model/ln_f/b"), _ours("global_step")
    ('h.11.attn.c_attn.weight', 'ln_f.bias', None)
    """
    match = re.fullmatch(NAME, name)
    if not match:
        return None
    if match["table"]:
        return f"{match['table']}.weight"
    part, is_norm = match["part"], match["part"].startswith("ln_")
    if (part == "ln_f") is (match["block"] is not None) or match["kind"] == ("w" if is_norm else "g"):
        return None
    start = "" if match["block"] is None else f"h.{match['block']}."
    return f"{start}{part.replace('/', '.')}.{'bias' if match['kind'] == 'b' else 'weight'}"


def _theirs(name: str) -> str:
    """
    >>> _theirs("h.11.attn.c_attn.weight"), _theirs("ln_f.bias"), _theirs("wte.weight")
    ('model/h11/attn/c_attn/w', 'model/ln_f/b', 'model/wte')
    """
    path, leaf = name.rsplit(".", 1)
    if path in ("wte", "wpe"):
        return f"model/{path}"
    kind = "b" if leaf == "bias" else "g" if "ln_" in path else "w"
    return "model/" + re.sub(r"^h\.", "h", path).replace(".", "/") + "/" + kind


def _tensor(name: str, variable: Variable, path: str) -> Tensor:
    if variable.dtype not in FLOATS:
        raise UserError(f"{name} holds {variable.dtype}, not weights", where=path, fix="name another checkpoint")
    shape = variable.shape
    if name.endswith("/w") and len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]  # the matrices were once convolutions of width 1
    return Tensor(shape, lambda: np.asarray(variable.read()).astype(np.float32, copy=False).reshape(shape))


def _stored(name: str, tensor: Tensor) -> Tensor:
    if not _theirs(name).endswith("/w"):
        return tensor
    return Tensor((1, *tensor.shape), lambda: tensor.read()[None])


def _hparams(folder: str, n_head: int | None) -> dict[str, int] | None:
    path = os.path.join(folder, HPARAMS)
    if not files.exists(path):
        return None
    fix = "fetch it again, or correct it"
    try:
        found = json.loads(files.read_bytes(path), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"this is not JSON: {error}", where=path, fix=fix) from error
    if not isinstance(found, dict):
        raise UserError("this must be a JSON object that states the model's shape", where=path, fix=fix)
    for key in KEYS:
        value, largest = found.get(key), DEEPEST if key == "n_layer" else 2**31 - 1
        if type(value) is not int or not 1 <= value <= largest:
            said = f"found {json.dumps(value)[:40]}" if key in found else "it is missing"
            raise UserError(f'"{key}" must be a whole number from 1 to {largest}, {said}', where=path, fix=fix)
    if n_head not in (None, found["n_head"]):
        raise UserError(f"{n_head} heads were asked for, it has {found['n_head']}", where=path, fix="leave n_head out")
    return {key: found[key] for key in KEYS}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


def _from_shapes(
    tensors: Mapping[str, Tensor], path: str, n_head: int | None
) -> tuple[dict[str, int], tuple[str, ...]]:
    def table(name: str) -> tuple[int, ...]:
        shape = tensors[name].shape if name in tensors else ()
        if len(shape) != 2 or 0 in shape:
            said = f"is {list(shape)}, not a table" if shape else "is missing"
            raise UserError(f"{_theirs(name)} {said}: the shape is unknown", where=path, fix="fetch it again")
        return shape

    (n_vocab, width), (n_ctx, _) = table("wte.weight"), table("wpe.weight")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("h.")}
    notes: tuple[str, ...] = ()
    if n_head is None:
        if width % 64:
            raise UserError(
                f"there is no {HPARAMS}, and a width of {width} does not divide into heads of 64",
                where=path,
                fix="say how many heads it has: n_head",
            )
        n_head = width // 64
        notes = (f"there is no {HPARAMS}: taken to have {n_head} heads, of 64 each, as GPT-2 has",)
    elif n_head < 1:
        raise UserError(f"n_head must be a whole number of at least 1, found {n_head}", where=path)
    keys = {"n_vocab": n_vocab, "n_ctx": n_ctx, "n_embd": width, "n_head": n_head, "n_layer": len(blocks)}
    return keys, notes


def _expressible(source: Source) -> None:
    keys: Mapping[str, Any] = source.keys
    strange = []
    if keys.get("activation", "gelu_tanh") != "gelu_tanh":
        strange.append(f'activation "{keys["activation"]}"')
    kinds = {kind for names, _ in keys.get("attention_types") or [] for kind in names}
    strange += [f"{kind} attention" for kind in sorted(kinds - {"global"})]
    if strange:
        raise UserError(
            f"OpenAI's format cannot say {' and '.join(strange)}: the model would be read as another one",
            where=source.path,
            fix="write it in another format",
        )


def _prefix(path: str) -> tuple[str, tuple[str, ...]]:
    """Where the checkpoint begins, and what to say of the choice."""
    if not os.path.isdir(path):
        prefix = bundle.stem(path)
        if prefix is None:
            raise UserError("there is no TensorFlow checkpoint here", where=path, fix="name its folder")
        return prefix, ()
    names, named = bundle.stems(path), bundle.latest(path)
    if not names:
        raise UserError("there are no weights in this folder", where=path, fix="fetch them again, or name another")
    if named in names:
        return os.path.join(path, str(named)), ()

    def step(name: str) -> int:
        match = re.search(r"-([0-9]{1,18})$", name)
        return int(match[1]) if match else -1

    # Without a step in its name a checkpoint is older than any with one, save that model.ckpt goes before strangers.
    chosen = max(names, key=lambda name: (step(name), name == PREFIX, name))
    notes = (f"its `checkpoint` file names {named}, which is not here: took {chosen}",) if named else ()
    if len(names) > 1 and not named:
        notes = (f"there are {len(names)} checkpoints: took {chosen}",)
    return os.path.join(path, chosen), notes
