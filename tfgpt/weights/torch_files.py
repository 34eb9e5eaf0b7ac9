"""The files in which PyTorch's world keeps tensors: safetensors, torch.save's, and the index over several; all distrusted."""

from __future__ import annotations

import importlib
import json
import math
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgpt import tensors
from tfgpt.errors import UserError
from tfgpt.weights.huggingface_names import Stored

KINDS = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float64": "F64"}
LARGEST_JSON = 64 << 20
LARGEST_HEADER = 100 << 20  # safetensors' own limit


def open_all(folder: Path, name: str) -> dict[str, Stored]:
    """The tensors of a file of `folder`, or of all files that an index names; none of them is read yet."""
    if not name.endswith(".index.json"):
        return _open(folder / name)
    index = json_object(folder / name).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise UserError('the index has no "weight_map" of tensors and files', where=str(folder / name))
    ending = ".safetensors" if ".safetensors" in name else ".bin"
    for shard in index.values():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard or not shard.endswith(ending):
            raise UserError(
                f"the index names {shard!r:.80}, which is no *{ending} file of this folder",
                where=str(folder / name),
                fix="do not trust this model; fetch it from its first source",
            )
    found: dict[str, Stored] = {}
    for shard in sorted(set(index.values())):
        if not (folder / shard).is_file():
            raise UserError(f"{shard} is missing", where=str(folder), fix="fetch the files that are missing")
        here = _open(folder / shard)
        wanted = {tensor for tensor, place in index.items() if place == shard}
        if here.keys() != wanted:
            odd = sorted(here.keys() ^ wanted)[0]
            said = "is not in it" if odd in wanted else "is in it and not in the index"
            raise UserError(f"the index and {shard} disagree: {odd} {said}", where=str(folder), fix="fetch both again")
        found |= here
    return found


def load(path: str) -> Any:
    """What torch.save wrote, its tensors mapped from the disk and not yet read.

    torch's own reader of weights carries out only what builds plain containers, numbers and tensors. A file that asks for
    more is refused.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"this is a file of PyTorch, which is not installed ({error})",
            where=path,
            fix="pip install torch, or save the model as safetensors where PyTorch is: model.save_pretrained(FOLDER)",
        ) from None
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                # torch.save never compresses; a few bytes of a file that does could fill the memory.
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise _damaged(path, "its parts are compressed, which torch.save does not do")
        # Files from before PyTorch 1.6 are no archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|reduce|function|class)\s+(\S*[\w.]+)", str(error).split("WeightsUnpickler")[-1])
        if asked is None:
            raise _damaged(path, "its pickle cannot be read") from None
        raise UserError(
            f"refused: this file asks to run {asked[1]}, which weights have no need of; nothing of it was run",
            where=path,
            fix="do not open it with torch.load or pickle either; look for the model as safetensors",
        ) from None
    except Exception as error:
        # What torch raises over a broken file is anybody's guess: RuntimeError, KeyError, EOFError, AssertionError.
        lines = str(error).splitlines() or [""]
        raise _damaged(path, f"{type(error).__name__}: {lines[0]:.200}") from None


def named_tensors(found: Any, *, where: str) -> dict[str, Stored]:
    """The tensors of a state dict that `load` gave."""
    if not isinstance(found, Mapping):
        raise UserError(f"holds a {type(found).__name__}, not named tensors", where=where)
    return {_text(name, where): _stored(name, tensor, where) for name, tensor in found.items()}


def _stored(name: str, tensor: Any, where: str) -> Stored:
    if not isinstance(tensor, importlib.import_module("torch").Tensor):
        raise UserError(f"{name} is a {type(tensor).__name__}, not a tensor", where=where)
    if str(tensor.layout) != "torch.strided" or str(tensor.device) != "cpu":
        raise UserError(f"{name} is a tensor of layout {tensor.layout} on {tensor.device}", where=where)

    def read() -> np.ndarray:
        array: np.ndarray = tensor.detach().float().contiguous().numpy()
        return array

    return Stored(tuple(tensor.shape), read, KINDS.get(str(tensor.dtype), str(tensor.dtype).removeprefix("torch.")))


def _text(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"holds {name!r:.60} where the name of a tensor should be", where=where)
    return name


def _damaged(path: str, why: str) -> UserError:
    return UserError(f"this file cannot be read as one of torch.save ({why})", where=path, fix="fetch it again")


def json_object(path: Path) -> dict[str, Any]:
    """One JSON object of a stranger's file."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise UserError("too large for a JSON file of a model", where=str(path), fix="fetch it again")
        return parsed(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing", where=str(path.parent), fix="fetch the whole folder") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"not a JSON object: {error}", where=str(path), fix="fetch it again") from None


def parsed(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; a ValueError if it is none, or if a name stands there twice."""
    content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands there twice")
    return content


def _open(path: Path) -> dict[str, Stored]:
    if path.suffix != ".safetensors":
        return named_tensors(load(str(path)), where=str(path))
    try:
        return dict(_safetensors(path))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"not a whole safetensors file: {error}", where=str(path), fix="fetch it again") from None


class _Entry(NamedTuple):
    first: int
    last: int
    name: str
    kind: str
    shape: tuple[int, ...]


def _safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of a file; a ValueError if its header does not describe its bytes exactly.

    `tensors.parse` reads our own files; here the header is a stranger's, and arrays at odd places, as older files have
    them, are copied one at a time and not all at once.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"its header of {length} bytes does not fit into {size}")
        table = parsed(stream.read(length))
    table.pop("__metadata__", None)
    entries = sorted(_entry(name, entry) for name, entry in table.items())
    end = 0
    for entry in entries:
        if entry.first != end:
            raise ValueError(f"{entry.name} begins at byte {entry.first} of the data, where {end} was due")
        end = entry.last
    if 8 + length + end != size:
        raise ValueError(f"it has {size} bytes, where its header calls for {8 + length + end}")
    content = np.memmap(path, np.uint8, "r")
    for entry in entries:
        start = 8 + length
        yield entry.name, _lazy(np.asarray(content[start + entry.first : start + entry.last]), entry)


def _entry(name: str, entry: Any) -> _Entry:
    kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in tensors.TYPES or not all(type(n) is int and n >= 0 for n in [*shape, first, last]):
        raise ValueError(f"the header says of {name} what cannot be: {entry!r:.120}")
    if last - first != math.prod(shape) * tensors.TYPES[kind].itemsize:
        raise ValueError(f"{last - first} bytes cannot be {name}, {kind} of shape {shape}")
    return _Entry(first, last, name, kind, tuple(shape))


def _lazy(data: np.ndarray, entry: _Entry) -> Stored:
    def read() -> np.ndarray:
        array = data.view(tensors.TYPES[entry.kind]).reshape(entry.shape)
        # Numbers at odd places are slow or worse for some kernels.
        return array if entry.kind == "F32" and array.flags.aligned else array.astype(np.float32)

    return Stored(entry.shape, read, entry.kind)
