"""pydantic's findings in the house's words: what was found, what is legal, the nearest legal value, the fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tfgpt.config.data import Dataset
from tfgpt.config.json_reader import MAXIMUM_PROBLEMS, Path
from tfgpt.config.kinds import INPUTS, TOKENIZERS, legal, nearest_number
from tfgpt.config.schema import Config
from tfgpt.errors import UserError, nearest

# What other projects call our keys; too far from ours in letters for the nearest-word rule to find.
ELSEWHERE = {
    "learning_rate": "lr",
    "base_lr": "lr",
    "batch_size": "train_batch_size",
    "block_size": "n_ctx",
    "seq_len": "n_ctx",
    "vocab_size": "n_vocab",
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "max_iters": "max_steps",
    "train_iters": "max_steps",
    "total_steps": "max_steps",
    "warmup_iters": "warmup_steps",
    "eval_interval": "train_steps",
    "eval_iters": "eval_steps",
    "steps_per_checkpoint": "save_steps",
    "grad_clip": "clip",
    "gradient_clipping": "clip",
    "gradient_accumulation_steps": "accumulate",
    "lr_decay": "lr_schedule",
    "recompute_grad": "recompute",
    "optimizer": "opt_name",
    "out_dir": "model_path",
    "dataset": "text",
    "dtype": "precision",
}


def explain(
    error: ValidationError, locate: Callable[[Path], str], *, broken: set[Path]
) -> tuple[list[UserError], set[str]]:
    """One UserError for each key that is wrong, and the names of those keys; values the reader lost already are passed over."""
    problems: dict[Path, UserError] = {}
    wrong: set[str] = set()
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":
            continue
        path, field = _field(item["loc"])
        wrong.add(str(item["loc"][0]))
        # A file of another kind can hold any number of unknown keys; a hundred of them say enough.
        if path in broken or path in problems or len(problems) == MAXIMUM_PROBLEMS:
            continue
        if item["type"] == "extra_forbidden":
            problems[path] = _unknown(path, locate(path))
        elif item["type"] == "missing":
            what = f"{path[-1]} is missing"
            problems[path] = UserError(what, where=locate(path), fix=f'add "{path[-1]}": {_example(field)}')
        else:
            # A rule of its own, as the list form of a dataset has, brings its own words.
            words = str(item.get("ctx", {}).get("words", "")) or (legal(field) if field else "an object")
            problems[path] = _illegal(path, item["input"], field, words, locate(path))
    return list(problems.values()), wrong


def _field(loc: tuple[int | str, ...]) -> tuple[Path, FieldInfo | None]:
    """The JSON path of an error without pydantic's own additions, and the field there."""
    field = Config.model_fields.get(str(loc[0]))
    if loc[0] != "datasets" or len(loc) < 2:
        return (loc[:1] if loc[0] != "datasets" else loc), field
    if len(loc) == 2:
        return loc, None
    return loc[:3], Dataset.model_fields.get(str(loc[2]))


def _unknown(path: Path, where: str) -> UserError:
    key, known = str(path[-1]), list(Dataset.model_fields if len(path) > 1 else Config.model_fields)
    plain = key.lower().replace("-", "_")
    guess = f'"{ELSEWHERE[plain]}"' if plain in ELSEWHERE and len(path) == 1 else nearest(plain, known)
    fix = f"rename the key to {guess}, or remove it" if guess else "remove it; `tfgpt config reference` lists every key"
    return UserError(f'unknown key "{key}"', where=where, nearest=guess, fix=fix)


def _illegal(path: Path, found: Any, field: FieldInfo | None, words: str, where: str) -> UserError:
    name = ".".join(map(str, path))
    close = _nearest_value(found, field) if field else ""
    shown = json.dumps(close) if close and isinstance(found, str) and not _is_bare(close) else close
    fix = f"--set {name}={close}" if close else f"write {words}"
    return UserError(f"{name} must be {words}, found {_shown(found)}", where=where, nearest=shown, fix=fix)


def _is_bare(word: str) -> bool:
    """Whether a value stands in JSON without quotes."""
    return word in ("true", "false") or word[:1] in "-0123456789"


def _nearest_value(found: Any, field: FieldInfo) -> str:
    number = nearest_number(found, field)
    if number is not None:
        return f"{number:g}" if isinstance(number, float) else str(number)
    kinds = [field.annotation, *get_args(field.annotation)]
    if bool in kinds:
        return {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}.get(
            str(found).lower(), ""
        )
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    name = next((key for key, known in Config.model_fields.items() if known is field), "")
    choices += {"input": INPUTS, "tokenizer": TOKENIZERS}.get(name, ())
    return nearest(found, choices).strip('"') if isinstance(found, str) else ""


def _example(field: FieldInfo | None) -> str:
    return '"data/*.tfrecords"' if field is Dataset.model_fields["train"] else "VALUE"


def _shown(value: Any) -> str:
    """A value as the user wrote it, cut short, with its kind where that is the mistake."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    kind = {str: " (text)", bool: " (true/false)", list: " (a list)", dict: " (an object)"}.get(type(value), "")
    return text + kind
