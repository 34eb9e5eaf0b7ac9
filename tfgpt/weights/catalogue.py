"""What `tfgpt download` can fetch: names, addresses, sizes and checksums."""

from __future__ import annotations

from dataclasses import dataclass

from tfgpt.errors import UserError, nearest

CONNOR = "https://storage.googleapis.com/connors-models/public"
OPENAI = ("https://openaipublic.blob.core.windows.net/gpt-2/models", "https://storage.googleapis.com/gpt-2/models")
# tiktoken fetches GPT-2's encoder from here; the same two files.
OPENAI_ENCODER = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"


@dataclass(frozen=True)
class File:
    """One file: its name at the source, the exact size and checksum where known, a size to plan with where not."""

    name: str
    size: int | None = None
    sha256: str | None = None
    about: int = 1_000_000
    save_as: str = ""

    @property
    def local(self) -> str:
        return self.save_as or self.name


@dataclass(frozen=True)
class Item:
    """One name a user can ask for. `path` is its folder on a mirror, `folder` where it goes, `sources` are tried in order."""

    name: str
    summary: str
    path: str
    folder: str
    sources: tuple[str, ...]
    files: tuple[File, ...]
    preset: str = ""
    writes_checkpoint: bool = False

    @property
    def planned(self) -> int:
        """Bytes on disk, about."""
        return sum(file.size or file.about for file in self.files)


ENCODER_FILES = (
    File("encoder.json", 1_042_301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    File("vocab.bpe", 456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
)


def _connor(name: str, data: int, summary: str) -> Item:
    # Their exact size is not known: a checkpoint may carry the optimizer's state beside the weights.
    files = (
        File("model.ckpt.data-00000-of-00001", about=data),
        File("model.ckpt.index", about=20_000),
        File("model.ckpt.meta", about=20_000_000),
    )
    sources = (f"{CONNOR}/{name}",)
    return Item(name, summary, name, name, sources, files, preset=name, writes_checkpoint=True)


def _openai(name: str, data: int, preset: str) -> Item:
    encoder, merges = ENCODER_FILES
    files = (
        File("checkpoint", about=100),
        encoder,
        File("hparams.json", about=100),
        File("model.ckpt.data-00000-of-00001", data),
        File("model.ckpt.index", about=20_000),
        File("model.ckpt.meta", about=3_000_000),
        merges,
    )
    sources = tuple(f"{base}/{name}" for base in OPENAI)
    return Item(name, f"OpenAI's GPT-2 of {name} parameters", name, f"models/{name}", sources, files, preset=preset)


CATALOGUE = {
    item.name: item
    for item in (
        _connor("117M", 497_759_232, "ConnorJL's weights in the shape of GPT-2 117M"),
        _connor("PrettyBig", 1_469_677_568, "ConnorJL's weights of 25 layers, a little more than GPT-2 345M"),
        _connor("1.5B", 6_230_444_800, "ConnorJL's weights in the shape of GPT-2 1.5B"),
        Item(
            "encoder",
            "GPT-2's byte-pair encoder (encoder.json, vocab.bpe)",
            "encoder",
            "encoder",
            (f"{CONNOR}/encoder", OPENAI_ENCODER),
            ENCODER_FILES,
        ),
        _openai("124M", 497_759_232, "117M"),
        _openai("355M", 1_419_292_672, "345M"),
        _openai("774M", 3_096_120_320, ""),
        _openai("1558M", 6_230_444_800, "1.5B"),
        Item(
            "shakespeare",
            "tiny Shakespeare, 1.1 MB of plays to try things on",
            "tinyshakespeare",
            "data",
            (SHAKESPEARE,),
            (
                File(
                    "input.txt",
                    1_115_394,
                    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    save_as="tinyshakespeare.txt",
                ),
            ),
        ),
    )
}


def find(name: str) -> Item:
    """The item of that name.

    >>> find("encoder").files[0].name
    'encoder.json'
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    raise UserError(
        f'nothing to download is called "{name}"',
        nearest=nearest(name, list(CATALOGUE)),
        fix=f"choose one of {', '.join(CATALOGUE)}",
    )
