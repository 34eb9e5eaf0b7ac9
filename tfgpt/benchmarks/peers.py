"""Whom `tfgpt bench train` runs beside us, what each of them needs, and whether that is installed."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from tfgpt.errors import UserError

TORCH_INDEX = " --extra-index-url https://download.pytorch.org/whl/cpu"


class Peer(NamedTuple):
    """One contestant: the module that runs it, packages by their import names, and what mends a failure."""

    module: str
    needs: tuple[str, ...]
    fix: str = ""


PEERS = {
    "torch.compile": Peer(
        "train_torch",
        ("torch", "transformers"),
        "torch.compile needs a C++ compiler (apt install g++), or --peer torch",
    ),
    "torch": Peer("train_torch", ("torch", "transformers")),
    "keras-hub": Peer("train_keras_hub", ("keras_hub",)),
}


def chosen(asked: list[str]) -> tuple[list[str], dict[str, str]]:
    """The peers that are meant by `asked`, and why some of them are left out.

    "all" takes those that are installed; one that is asked for by its name has to be.
    """
    if "none" in asked:
        return [], {}
    if "all" not in asked:
        names = list(dict.fromkeys(asked))
        for name in names:
            require(PEERS[name].needs)
        return names, {}
    left_out = {name: why for name, peer in PEERS.items() if (why := _missing(peer.needs))}
    return [name for name in PEERS if name not in left_out], left_out


def require(packages: tuple[str, ...]) -> None:
    """Say how to install what is missing."""
    if why := _missing(packages):
        raise UserError(f"the peer needs {why}", where="--peer", nearest="none", fix=_install(packages))


def installed(package: str) -> bool:
    """Whether `package` can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def _missing(packages: tuple[str, ...]) -> str:
    missing = [name.replace("_", "-") for name in packages if not installed(name)]
    return f"{' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed" if missing else ""


def _install(packages: tuple[str, ...]) -> str:
    names = " ".join(name.replace("_", "-") for name in packages)
    return f"pip install {names}" + (TORCH_INDEX if "torch" in packages else "")
