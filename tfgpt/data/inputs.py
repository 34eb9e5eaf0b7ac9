"""From a configuration to batches: the data is prepared, verified and mapped, and its windows are put in order.

A mixture's parts are told apart by their number. Evaluation takes all parts together, each by its size: a weight is about
what to learn from, not about what to measure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfgpt import files, tokenizers
from tfgpt.config import Config
from tfgpt.data import ledger, order, prepare, sides
from tfgpt.data.batches import Batches, EvalBatches, TrainBatches
from tfgpt.data.functions import Function, FunctionBatches, HeldBatches
from tfgpt.data.ledger import Ledger
from tfgpt.data.prepare import Part
from tfgpt.data.shards import Shard
from tfgpt.data.stitch import Stitched
from tfgpt.data.tokens import Stored, open_shards
from tfgpt.data.windows import Chunks, Packed, Source, Stream
from tfgpt.errors import Failure, UserError
from tfgpt.tokenizers import Tokenizer

GPT2_END_OF_TEXT = 50256


@dataclass
class Inputs:
    """The data of one run.

    train            endless batches, each a pure function of the seed and its position
    eval             a fixed number of batches, the same ones always; None if nothing is held out
    tokenizer        the data's own, else the configuration's; None if there is none to be found
    n_vocab, eot     number of ids, and the one that separates documents
    identity         a short name for exactly this data, which a resumed run compares
    bytes_per_token  UTF-8 bytes of evaluation text for each of its labels (that count); None without a ledger
    train_tokens     labels in one epoch, those that do not count included; 0 for an input function, which nobody can count
    notes            what a person should be told: damage that was passed over, windows that need padding, ...
    """

    train: Batches
    eval: Batches | None
    tokenizer: Tokenizer | None
    n_vocab: int
    eot: int
    identity: str
    bytes_per_token: float | None
    train_tokens: int
    notes: list[str] = field(default_factory=list)


@dataclass
class _Opened:
    """One part of the mixture with its shards."""

    part: Part
    train: list[Stored]
    eval: list[Stored]


def open_inputs(config: Config, *, n_vocab: int | None = None) -> Inputs:
    """The batches that `config` asks for; its text is encoded and its shards are read first, if that was never done.

    n_vocab  the model's own, where it is known already (a resumed run); ids beyond it are refused

    >>> inputs = open_inputs(config.load("quickstart"))   # doctest: +SKIP
    >>> ids, labels, _ = inputs.train.batch(0)            # doctest: +SKIP
    """
    parts = prepare.prepare(config)
    ledgers = ledgers_of(parts)
    notes: list[str] = []
    tokenizer = tokenizer_of(config, ledgers, notes)
    n_vocab, eot = vocabulary_of(config, tokenizer, n_vocab)
    settings = {"n_ctx": config.n_ctx, "eot": eot, "document_mask": config.document_mask}
    drawn = {"noise": config.noise, "n_vocab": n_vocab, "seed": config.seed, "batch_size": config.train_batch_size}
    if ":" in config.input and not parts:
        return _from_function(config, tokenizer, n_vocab, eot, notes, settings, drawn)
    promised = {path: shard for folder, known in ledgers.items() for path, shard in shards_of(folder, known)}
    opened = []
    for part in parts:
        stores = []
        for paths in (part.train, part.eval):
            found, said = open_shards(
                paths, eot=eot, n_vocab=n_vocab, promised=promised, skip=config.on_corrupt == "skip"
            )
            stores.append(found)
            notes += said
        if not stores[0]:
            where = part.folder or ", ".join(part.train[:3])
            raise Failure(
                "there is no document to train on", where=where, fix="tfgpt data show FOLDER shows what is there"
            )
        opened.append(_Opened(part, *stores))
    marked = _marked(config, opened, tokenizer, notes)
    sources = [_source(one.part, one.train, config, number) for number, one in enumerate(opened)]
    marks = [_source(one.part, one.train, config, number) for number, one in enumerate(marked)]
    notes += [source.note for source in sources if isinstance(source, Stitched) and source.note]
    return Inputs(
        train=TrainBatches(sources, [one.part.weight for one in opened], marks=marks, **settings, **drawn),
        eval=_evaluation(config, opened, marked, settings, notes),
        tokenizer=tokenizer,
        n_vocab=n_vocab,
        eot=eot,
        identity=_identity(opened, eot),
        bytes_per_token=_bytes_per_mark(opened, marked, tokenizer) if marked else _bytes_per_token(parts, promised),
        train_tokens=sum(source.targets for source in sources),
        notes=notes,
    )


def _source(part: Part, stores: Sequence[Stored], config: Config, number: int) -> Source:
    if part.mode in ("packed", "chunk"):
        return _whole(part, stores, config, number)
    key, random = int(order.mixed(config.seed, number)[0]), part.mode == "random_sample"
    return Stitched(Stream(stores), n_ctx=config.n_ctx, key=key, stitch=part.stitch, random=random)


def _whole(part: Part, stores: Sequence[Stored], config: Config, number: int) -> Packed | Chunks:
    """Windows that leave nothing out, which evaluation takes in every mode: a loss over random parts would be noise."""
    kind = Chunks if part.mode == "chunk" else Packed
    return kind(Stream(stores), n_ctx=config.n_ctx, key=int(order.mixed(config.seed, number)[0]))


def _marked(config: Config, opened: Sequence[_Opened], tokenizer: Tokenizer | None, notes: list[str]) -> list[_Opened]:
    """The parts once more, with marks of the tokens that count in place of ids; none of them where all tokens count."""
    side = config.loss_on
    if side == "all":
        return []
    found = [_Opened(one.part, *(sides.marked(s, tokenizer, side) for s in (one.train, one.eval))) for one in opened]
    counted = sum(int(store.ids.sum(dtype=np.int64)) for one in found for store in one.train)
    if not counted:
        raise UserError(
            f"no token of the training data is {side}: there is nothing to learn",
            where=f'$.loss_on is "{side}"',
            nearest='"all"',
            fix="tfgpt data show FOLDER shows the text; only lines of the chat format have sides",
        )
    total = sum(len(store.ids) for one in found for store in one.train)
    notes.append(f"loss_on {side}: {counted:,} of {total:,} training tokens count in the loss ({counted / total:.0%})")
    return found


def _evaluation(
    config: Config, opened: Sequence[_Opened], marked: Sequence[_Opened], settings: dict[str, Any], notes: list[str]
) -> EvalBatches | None:
    held = [(number, one) for number, one in enumerate(opened) if one.eval]
    if config.eval_steps == 0 or not held:
        notes.append("eval_steps is 0: there is no evaluation" if held else "no evaluation data: nothing is held out")
        return None
    sources = [_whole(one.part, one.eval, config, number) for number, one in held]
    marks = [_whole(marked[number].part, marked[number].eval, config, number) for number, _ in held if marked]
    how = {"steps": config.eval_steps, "batch_size": config.eval_batch_size, **settings}
    batches = EvalBatches(sources, marks=marks, **how)
    if marked and not any((batches.batch(number).labels >= 0).any() for number in range(batches.count)):
        notes.append(f"no evaluation: nothing in the evaluation data is {config.loss_on}")
        return None
    return batches


def _from_function(
    config: Config,
    tokenizer: Tokenizer | None,
    n_vocab: int,
    eot: int,
    notes: list[str],
    settings: dict[str, Any],
    drawn: dict[str, Any],
) -> Inputs:
    function = prepare.input_function(config.input)
    params = config.model_dump()

    def split(evaluate: bool, size: int) -> Function:
        return Function(function, config.input, {**params, "batch_size": size}, evaluate=evaluate, n_vocab=n_vocab)

    held = None
    if config.eval_steps:
        pairs = split(True, config.eval_batch_size).held(config.eval_steps, config.eval_batch_size)
        held = HeldBatches(pairs, batch_size=config.eval_batch_size, **settings) if pairs else None
    if held is None:
        notes.append("no evaluation data: the input function gives none" if config.eval_steps else "eval_steps is 0")
    train = FunctionBatches(split(False, config.train_batch_size), **settings, **drawn)
    # What a function reads cannot be known; its name is all that a resumed run can compare.
    return Inputs(train, held, tokenizer, n_vocab, eot, f"function {config.input}", None, 0, notes)


def ledgers_of(parts: Sequence[Part]) -> dict[str, Ledger]:
    """The ledgers that tell about these files, by folder: the data's own, or those that lie beside files of a mixture."""
    found = {part.folder: part.ledger for part in parts if part.ledger}
    for part in parts:
        if part.ledger:
            continue
        paths = part.train + part.eval
        for folder in dict.fromkeys(path.rpartition("/")[0] for path in paths):
            if folder not in found and files.exists(files.join(folder, ledger.NAME)):
                known = ledger.read(folder)
                if any(path in paths for path, _ in shards_of(folder, known)):
                    found[folder] = known
    return found


def shards_of(folder: str, known: Ledger) -> list[tuple[str, Shard]]:
    """Paths of all shards that a ledger tells of, and what it says of each."""
    return [
        (path, shard)
        for split, shards in known.splits.items()
        for path, shard in zip(known.paths(folder, split), shards, strict=True)
    ]


def tokenizer_of(config: Config, ledgers: dict[str, Ledger], notes: list[str]) -> Tokenizer | None:
    """The tokenizer that the data was encoded with, else the configuration's; None, and a note why, if there is none."""
    kinds = {known.tokenizer["fingerprint"]: folder for folder, known in ledgers.items()}
    if len(kinds) > 1:
        raise UserError(
            "the parts of the mixture were encoded with different tokenizers",
            where=", ".join(kinds.values()),
            fix="encode them anew with one tokenizer: tfgpt encode TEXT --tokenizer FOLDER",
        )
    for fingerprint, folder in kinds.items():
        place = files.join(folder, ledger.TOKENIZER_FOLDER)
        loaded = tokenizers.load(place)
        if loaded.fingerprint != fingerprint:
            raise Failure(
                "this tokenizer is not the one that the data was encoded with",
                where=place,
                fix="restore it, or encode the text anew",
            )
        return loaded
    try:
        return tokenizers.from_name(config.tokenizer, encoder_path=config.encoder_path)
    except UserError as error:
        notes.append(f"no tokenizer: {error.what}" + (f"; {error.fix}" if error.fix else ""))
        return None


def vocabulary_of(config: Config, tokenizer: Tokenizer | None, n_vocab: int | None) -> tuple[int, int]:
    """How many ids there are, and the one that stands between documents."""
    if n_vocab is None and "n_vocab" in config.model_fields_set:
        n_vocab = config.n_vocab
    if tokenizer is None:
        n_vocab = n_vocab or config.n_vocab
        if config.tokenizer == "gpt2" and n_vocab and n_vocab > GPT2_END_OF_TEXT:
            return n_vocab, GPT2_END_OF_TEXT
        raise UserError(
            "without its tokenizer nobody knows which id separates the documents of this data",
            where=f'$.tokenizer is "{config.tokenizer}"',
            fix="name the tokenizer's folder: --set tokenizer=FOLDER",
        )
    # A tokenizer without an end-of-text, as in nanoGPT's meta.pkl, gets one behind its own ids.
    needed = tokenizer.n_vocab + (tokenizer.eot is None)
    eot = tokenizer.n_vocab if tokenizer.eot is None else tokenizer.eot
    if n_vocab is not None and n_vocab < needed:
        more = " and an end-of-text" if tokenizer.eot is None else ""
        raise UserError(
            f"n_vocab is {n_vocab}, but the data's tokenizer has {tokenizer.n_vocab} ids{more}",
            where="$.n_vocab",
            nearest=f'"n_vocab": {needed}',
            fix=f"--set n_vocab={needed}",
        )
    return n_vocab or needed, eot


def _identity(opened: Sequence[_Opened], eot: int) -> str:
    """From the content of the shards and from what was passed over in them; where they lie does not matter."""
    marks = [[[(s.sha256, s.lost) for s in stores] for stores in (one.train, one.eval)] for one in opened]
    return hashlib.sha256(json.dumps([eot, marks]).encode()).hexdigest()[:16]


def _bytes_per_mark(opened: Sequence[_Opened], marked: Sequence[_Opened], tokenizer: Tokenizer | None) -> float | None:
    """The same for the tokens that count."""
    pairs = [(one.eval, marks.eval) for one, marks in zip(opened, marked, strict=True)]
    count = sum(int(store.ids.sum(dtype=np.int64)) for _, marks in pairs for store in marks)
    if not count or tokenizer is None:
        return None
    return sum(sides.counted_bytes(stores, marks, tokenizer) for stores, marks in pairs) / count


def _bytes_per_token(parts: Sequence[Part], promised: dict[str, Shard]) -> float | None:
    shards = [promised.get(path) for part in parts for path in part.eval]
    known = [shard for shard in shards if shard is not None]
    labels = sum(shard.tokens + shard.records for shard in known)  # each document's end-of-text is predicted as well
    text = sum(shard.text_bytes for shard in known)
    return text / labels if known and len(known) == len(shards) and text else None
