"""May a run go on under a configuration that differs from the one it was begun with? Some keys never, some if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from tfgpt.config import Config
from tfgpt.errors import UserError

Kind = Literal["harmless", "data", "allow", "never"]

KINDS: dict[Kind, str] = {
    # How long, how often, where to: the updates themselves stay what they were.
    "harmless": """
        max_steps train_steps eval_steps eval_batch_size iterations save_steps save_minutes keep_last milestone_steps
        sample_every guard on_corrupt recompute xla tensorboard wandb model_path
        top_k predict_batch_size predict_path
        init scale_by_depth scale_by_in init_from
    """,
    # Where the data lies and how it was made says nothing; whether it is the same data, its identity does.
    "data": """
        text text_key data_path datasets tokenizer encoder_path eval_fraction minimum_size fix_text drop_duplicates
    """,
    # Legal, but the run is then no longer the one that its configuration describes.
    "allow": """
        input document_mask loss_on noise embed_dropout attn_dropout res_dropout precision
        lr warmup_steps lr_schedule min_lr weight_decay decay beta1 beta2 epsilon decay_type decay_exponent clip
        accumulate train_batch_size seed trainable
    """,
    # The weights or the optimizer's state would not fit, or would mean something else.
    "never": """
        model n_layer n_embd n_head n_ctx n_vocab vocab_multiple local fixed_attn_block_size layer_offset attention_types
        attention_window activation opt_name
    """,
}
KIND_OF: dict[str, Kind] = {key: kind for kind, keys in KINDS.items() for key in keys.split()}


class Change(NamedTuple):
    """One key that differs; `old` and `new` as JSON. A key the checkpoint does not know yet is compared by its default."""

    key: str
    old: str
    new: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """The keys that differ between a checkpoint's configuration and the present one, and how much that matters.

    >>> [f"{change} ({change.kind})" for change in compare({"lr": 1e-3, "seed": 1}, {"lr": 5e-4, "seed": 1})]
    ['lr: 0.001 -> 0.0005 (allow)']
    """
    # JSON has no tuples: both sides are seen as they would stand in a file.
    before, after = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    differing = []
    for key in [*after, *(key for key in before if key not in after)]:
        left, right = (side[key] if key in side else _default(key, side) for side in (before, after))
        if left != right:
            kind = _kind(key, before, after)
            differing.append(Change(key, json.dumps(left), json.dumps(right), kind))
    return differing


def check(old: dict[str, Any], new: dict[str, Any], *, data_changed: bool, allow: bool) -> list[str]:
    """Stop a run that must not go on so; otherwise one line for the log for each difference that matters or was allowed.

    `data_changed` says whether the data's identity, not its place, is another one; `allow` is --allow_change.
    """
    notes, refused, forever = [], [], []
    changes = compare(old, new)
    if data_changed and not any(change.kind == "data" for change in changes):
        # Same paths, other content.
        changes.append(Change("data", "what the checkpoint was trained on", "other content at the same place", "data"))
    for change in changes:
        if change.kind == "never":
            forever.append(change)
        elif change.kind == "allow" or (change.kind == "data" and data_changed):
            refused.append(change)
        else:
            remark = ""
            if change.key == "max_steps" and new.get("lr_schedule") != "constant":
                remark = "   (the learning rate's schedule now ends there)"
            notes.append(f"changed since the checkpoint: {change}{remark}")
    if forever or (refused and not allow):
        raise _refusal(forever, refused, allowed=allow, where=str(new.get("model_path", "")))
    return notes + [f"changed since the checkpoint, by --allow_change: {change}" for change in refused]


def _refusal(forever: list[Change], refused: list[Change], *, allowed: bool, where: str) -> UserError:
    lines = ["the run in this folder was begun with another configuration, and cannot go on with this one:"]
    lines += _rows(forever, "cannot change in a run" if refused else "")
    if not allowed:
        lines += _rows(refused, "with --allow_change only" if forever else "")
    if forever:
        fix = "take these keys back, or choose another model_path (with init_from, it starts from the weights of this one)"
    else:
        fix = "add --allow_change to go on with the new values, take them back, or choose another model_path"
    return UserError("\n".join(lines), where=where, fix=fix)


def _rows(changes: Iterable[Change], remark: str) -> list[str]:
    return [f"    {change}" + (f"   ({remark})" if remark else "") for change in changes]


def _kind(key: str, old: dict[str, Any], new: dict[str, Any]) -> Kind:
    if key in ("fixed_attn_block_size", "layer_offset") and not (_has_local(old) or _has_local(new)):
        return "harmless"  # global attention does not read them
    if key == "attention_window" and not (_has_local(old, "sliding") or _has_local(new, "sliding")):
        return "harmless"
    if key == "warmup_steps" and all(side.get(key) == _default(key, side) for side in (old, new)):
        return "harmless"  # it only follows max_steps, which may change
    if key == "beta1" and "adam" not in (old.get("opt_name"), new.get("opt_name")):
        # Momentum is a state of its own there: with 0 it does not exist.
        return "never" if (not old.get(key)) != (not new.get(key)) else "allow"
    if key == "datasets" and _without_places(old.get(key)) != _without_places(new.get(key)):
        return "allow"  # other weights or windows make other batches of the same files
    return KIND_OF.get(key, "allow")


def _has_local(config: dict[str, Any], kind: str = "local") -> bool:
    return bool(config.get(kind)) or kind in json.dumps(config.get("attention_types"))


def _without_places(datasets: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [{key: value for key, value in part.items() if key not in ("train", "eval")} for part in datasets or []]


def _default(key: str, values: dict[str, Any]) -> Any:
    """What a configuration that does not mention `key` means by that; keys are added by newer versions of tfgpt."""
    field = Config.model_fields.get(key)
    if field is None or field.is_required():
        return None
    return json.loads(json.dumps(field.get_default(call_default_factory=True, validated_data=values)))
