"""How likely a model finds a text: the log-probability of each token, perplexity, and bits a byte.

The text is read as the beginning of a document. One that is longer than the model's context is scored in windows that
overlap by half, so that each token is scored once and sees at least half a context of what stands before it.

example:
  tfgpt score models/my_text --text "To be or not to be"
  tfgpt score models/my_text --file my_texts/1.txt --summary
"""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfgpt.generation.scoring import Score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt score`."""
    from tfgpt.generation.options import DTYPES

    parser.add_argument("folder", metavar="DIR", help="a run's folder, one checkpoint, or a released model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", metavar="TEXT", help="the text")
    source.add_argument("--file", metavar="FILE", help="the file that holds it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--summary", action="store_true", help="leave out the single tokens")
    parser.add_argument("--best", action="store_true", help="the checkpoint with the best evaluation, not the newest")
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="a tokenizer or its folder, in place of the checkpoint's own"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what weights are kept in (default float32)")


def run(args: argparse.Namespace) -> int:
    """Score, and print."""
    from tfgpt.cli.prompts import text_of
    from tfgpt.errors import UserError
    from tfgpt.generator import Generator

    text = text_of(args.file) if args.file is not None else args.text
    if not text:
        raise UserError("there is no text to score", fix="give a text of one character or more")
    generator = Generator.load(args.folder, dtype=args.dtype, slots=1, best=args.best, tokenizer=args.tokenizer)
    score = generator.score(text)
    if args.json:
        print(json.dumps(_summary(score) | ({} if args.summary else _tokens(score)), ensure_ascii=False))
        return 0
    if not args.summary:
        for piece, logprob in zip(score.pieces, score.logprobs, strict=True):
            print(f"{logprob:9.4f}  {piece!r}")
    print(
        f"{len(score.tokens):,} tokens, {score.bytes:,} bytes: log-probability {score.total:.4f}, "
        f"perplexity {score.perplexity:.4f}, {score.bits_per_byte:.4f} bits a byte"
        + (f" (in {score.windows} windows)" if score.windows > 1 else "")
    )
    return 0


def _summary(score: Score) -> dict[str, Any]:
    return {
        "count": len(score.tokens),
        "bytes": score.bytes,
        "logprob": score.total,
        "perplexity": score.perplexity if math.isfinite(score.perplexity) else None,
        "bits_per_byte": score.bits_per_byte,
        "windows": score.windows,
    }


def _tokens(score: Score) -> dict[str, Any]:
    return {"tokens": score.tokens, "pieces": score.pieces, "logprobs": score.logprobs}
