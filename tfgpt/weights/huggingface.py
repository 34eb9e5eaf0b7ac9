"""Folders of Hugging Face's transformers, GPT-2 and GPT-Neo: read from safetensors or torch.save, written as safetensors."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from tfgpt import files, tensors, tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers import Tokenizer
from tfgpt.tokenizers.base import END_OF_TEXT
from tfgpt.tokenizers.bpe import BpeTokenizer
from tfgpt.tokenizers.loading import LAYOUTS
from tfgpt.tokenizers.vocabulary import VERSION
from tfgpt.weights import huggingface_names as gpt2
from tfgpt.weights import neo
from tfgpt.weights.huggingface_names import HEAD, Facts, named, notes_on, require_tied
from tfgpt.weights.source import Source, checked
from tfgpt.weights.torch_files import json_object, open_all

CONFIG = "config.json"
FAMILIES = {"gpt2": gpt2, "gpt_neo": neo}
KINDS = {"gpt2": "GPT-2 as Hugging Face stores it", "gpt_neo": "GPT-Neo as Hugging Face stores it"}
# In the order in which transformers looks for them: one file, or an index of several.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PAIR = ("vocab.json", "merges.txt")
WHOLE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
# What a BPE of the tokenizers library may have, and GPT-2's has not.
ODD = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
GPT2_END = 50256


def recognises(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder of Hugging Face's: weights beside a config.json. What is wrong with it, `read` says."""
    folder = Path(path)
    return (folder / CONFIG).is_file() and _weights(folder) is not None


def read(path: str | os.PathLike[str]) -> Source:
    """The model in a folder that save_pretrained wrote or that came from the Hub.

    >>> read("gpt2").keys["n_layer"]                                     # doctest: +SKIP
    12
    """
    folder = Path(path)
    facts = Facts(json_object(folder / CONFIG), str(folder / CONFIG))
    kind = facts.content.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            f'"model_type" is {kind!r:.60}; tfgpt reads only {" and ".join(FAMILIES)}',
            where=facts.where,
            fix="use transformers for this model",
        )
    name = _weights(folder)
    if name is None:
        raise UserError(
            f"no weights beside {CONFIG}",
            where=str(folder),
            nearest=" or ".join(WEIGHTS),
            fix="fetch the whole folder; weights of TensorFlow or Flax are saved anew by transformers",
        )
    stored = named(open_all(folder, name), where=str(folder))
    head = stored.pop(HEAD, None)
    if facts.must("tie_word_embeddings", True, False) is False and head is None:
        raise UserError(
            f'"tie_word_embeddings" is false, and there is no {HEAD}: the output layer is missing', where=facts.where
        )
    keys, found, notes = FAMILIES[kind].read(facts, stored)
    tokenizer, more = _read_tokenizer(folder, keys["n_vocab"])
    source = Source(KINDS[kind], str(folder), keys, found, tokenizer, (*notes, *notes_on(stored), *more))
    require_tied(head, checked(source).tensors["wte.weight"], where=str(folder))
    return source


def write(source: Source, folder: str | os.PathLike[str]) -> None:
    """Write `source` into an empty folder as transformers' from_pretrained reads it: a GPT-2, or a GPT-Neo if it is one.

    >>> write(source, "my_model")                                        # doctest: +SKIP
    """
    family = neo if neo.can_write(source) else gpt2
    tokenizer = source.tokenizer
    end = tokenizer.eot if tokenizer else GPT2_END if source.keys["n_vocab"] > GPT2_END else None
    config = family.config(source, end)
    later = {name: tensors.Later(tensor.shape, tensor.read) for name, tensor in family.stored(source).items()}
    files.require_space(folder, tensors.size(later), purpose="the model")
    generation = {"_from_model_config": True, "bos_token_id": end, "eos_token_id": end}
    small = {CONFIG: config, "generation_config.json": generation}
    for name, content in small.items():
        files.write_text(files.join(folder, name), json.dumps(content, indent=2) + "\n")
    if tokenizer:
        # transformers has no characters or plain bytes; tfgpt's own files at least keep the model and its alphabet together.
        longest = source.keys["n_ctx"]
        parts = _tokenizer_files(tokenizer, longest) if isinstance(tokenizer, BpeTokenizer) else tokenizer.files()
        for name, data in parts.items():
            files.write_bytes(files.join(folder, name), data)
    with files.atomic_writer(files.join(folder, WEIGHTS[0])) as stream:
        for piece in tensors.pieces(later):
            stream.write(piece)


def _weights(folder: Path) -> str | None:
    return next((name for name in WEIGHTS if (folder / name).is_file()), None)


def _read_tokenizer(folder: Path, n_vocab: int) -> tuple[Tokenizer | None, list[str]]:
    """The tokenizer of a folder; where it is none of ours, None and a note that says why."""
    there = sorted(
        path.name for path in folder.iterdir() if re.search(r"token|vocab|merges|spiece|bpe|meta\.pkl", path.name)
    )
    own = [names for names in LAYOUTS if all((folder / name).is_file() for name in names)]
    try:
        if not there and not own:
            return None, ["no tokenizer lies beside it"]
        settings = json_object(folder / SETTINGS) if SETTINGS in there else {}
        if settings.get("add_prefix_space"):
            raise UserError(f"{SETTINGS} asks for a space before every text")
        if WHOLE in there:
            tokenizer: Tokenizer = _from_one_file(folder / WHOLE, n_vocab)
        elif own:
            if settings.get("tokenizer_class") not in CLASSES:
                raise UserError(f"it is a {settings['tokenizer_class']!r:.60}")
            tokenizer = tokenizers.load(folder)
        else:
            raise UserError(f"tfgpt reads {WHOLE}, or {' with '.join(PAIR)}")
        if tokenizer.n_vocab > n_vocab:
            raise UserError(f"it has {tokenizer.n_vocab} ids, and the model only {n_vocab}")
    except UserError as error:
        return None, [f"the tokenizer beside it ({', '.join(there)}) is not used: {error.what}"]
    return tokenizer, []


def _from_one_file(path: Path, n_vocab: int) -> BpeTokenizer:
    """The byte pairs in a tokenizer.json; a UserError if anything in it would cut or join text in another way than GPT-2."""
    content = json_object(path)
    model, before = content.get("model"), content.get("pre_tokenizer")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise UserError(f"{path.name} is not of byte pairs")
    odd = [key for key in ODD if model.get(key)] + ["normalizer"] * bool(content.get("normalizer"))
    if not isinstance(before, dict) or before.get("type") != "ByteLevel" or not before.get("use_regex", True):
        odd.append("pre_tokenizer")
    elif before.get("add_prefix_space", True):
        odd.append("add_prefix_space")
    ids, merges, added = model.get("vocab"), model.get("merges"), content.get("added_tokens") or []
    try:
        ids = dict(ids)  # type: ignore[arg-type]
        for token in added:
            if token["content"] not in ids and token["id"] < n_vocab:
                ids[token["content"]] = token["id"]
            if not token.get("special") and token["content"] != END_OF_TEXT:
                odd.append(f"added token {token['content']!r:.40}")
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]  # type: ignore[union-attr]
        text = json.dumps(dict(sorted(ids.items(), key=lambda item: item[1])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path.name} cannot be read ({type(error).__name__}: {error})") from None
    if odd:
        raise UserError(f"{path.name} has what GPT-2's byte pairs do not have: {', '.join(odd[:3])}")
    # Laid out as OpenAI's two files, so that GPT-2's own are known for what they are.
    parts = {PAIR[0]: text.encode("ascii"), PAIR[1]: "\n".join([VERSION, *lines, ""]).encode("utf-8", "replace")}
    return BpeTokenizer.from_files(parts, where=f"{path}: ")


def _tokenizer_files(tokenizer: BpeTokenizer, longest: int) -> dict[str, bytes]:
    """Everything that the old and new classes of transformers look for beside a GPT-2."""
    vocabulary, end = tokenizer.vocabulary, END_OF_TEXT if tokenizer.eot is not None else None
    made = {left + right for left, right in vocabulary.merges}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    # Tokens that no merge makes are special; in text of users tfgpt never finds them, transformers does.
    added = [
        {"id": number, "content": token} | plain
        for token, number in vocabulary.ids.items()
        if len(token) > 1 and token not in made
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level | {"trim_offsets": False},
        "decoder": level,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token")),
            **dict.fromkeys(("continuing_subword_prefix", "end_of_word_suffix"), ""),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": vocabulary.ids,
            "merges": [f"{left} {right}" for left, right in vocabulary.merges],
        },
    }
    specials = {"bos_token": end, "eos_token": end, "unk_token": end}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "errors": "replace"} | specials
    contents: dict[str, Any] = {
        WHOLE: whole,
        SETTINGS: settings | {"model_max_length": longest},
        "special_tokens_map.json": specials if end else {},
    }
    parts = {name: json.dumps(content, indent=2).encode("ascii") for name, content in contents.items()}
    return {PAIR[0]: vocabulary.encoder_json(), PAIR[1]: vocabulary.vocab_bpe()} | parts
