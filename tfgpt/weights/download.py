"""Released models, GPT-2's encoder and sample text: from the net, a mirror or a folder, verified, fetched once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tfgpt import files
from tfgpt.errors import Failure, Problems, UserError
from tfgpt.weights.catalogue import File, Item, find
from tfgpt.weights.fetch import Patience, Receipt, fetch

# For files whose checksum is not public, this remembers what arrived, so that a later run can tell whether it still stands.
LEDGER = ".tfgpt-download.json"


def download(
    name: str,
    output: str = "",
    *,
    base_url: str = "",
    from_dir: str = "",
    patience: Patience | None = None,
) -> Path:
    """Bring one item of the catalogue to disk; returns its folder. What is there and right is not fetched again.

    >>> download("encoder")                                           # doctest: +SKIP
    PosixPath('encoder')
    """
    item = find(name)
    if base_url and not re.match(r"https?://[^/]", base_url):
        raise UserError(f'"{base_url}" is no address of a mirror', fix="--base_url https://HOST/FOLDER")
    if base_url and from_dir:
        raise UserError("--base_url and --from_dir exclude each other", fix="leave one of them out")
    if files.is_remote(output):
        raise UserError("downloads go to a folder of this machine", where=output, fix="--output FOLDER, then copy it")
    folder = Path(output or item.folder)
    found = _look_for(item, from_dir) if from_dir else {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError("a file is where a folder should be", where=str(folder), fix="--output FOLDER") from error
    ledger = _read_ledger(folder)
    wanted = [file for file in item.files if not _stands(file, folder, ledger)]
    files.require_space(folder, sum(_missing(file, folder) for file in wanted), purpose=item.name)
    for file in wanted:
        target = Path(files.join(folder, file.local))

        def ready(receipt: Receipt, file: File = file, target: Path = target) -> None:
            if file.name not in found or not target.exists() or not os.path.samefile(found[file.name], target):
                _set_aside(target)
            if file.sha256 is None:
                # Before the rename: killed in between, the next run still knows what it sees.
                ledger[file.local] = receipt
                _write_ledger(folder, ledger)

        if from_dir:
            receipt = _copy(found[file.name], target, file, ready)
        else:
            urls = [f"{base_url.rstrip('/')}/{item.path}/{file.name}"] if base_url else []
            receipt = fetch(
                urls or [f"{source}/{file.name}" for source in item.sources],
                target,
                label=f"{item.name}/{file.local}",
                size=file.size,
                sha256=file.sha256,
                ready=ready,
                patience=patience or Patience(),
            )
        checked = "checksum right" if file.sha256 else "complete"
        print(f"{target}  {receipt.size:,} bytes, {checked}", file=sys.stderr)
    if item.writes_checkpoint:
        # These sources have no `checkpoint` file, which TensorFlow's loaders look for; written last, as the mark of a whole model.
        files.write_text(folder / "checkpoint", 'model_checkpoint_path: "model.ckpt"\n')
    return folder


def _stands(file: File, folder: Path, ledger: dict[str, Receipt]) -> bool:
    """Whether the file is there and is what it should be."""
    target = Path(files.join(folder, file.local))
    known = ledger.get(file.local)
    wanted = file.sha256 or (known.sha256 if known else None)
    if wanted is None or not target.is_file() or (file.size is not None and target.stat().st_size != file.size):
        return False
    if files.sha256(target) != wanted:
        return False
    print(f"{target}  is here already, checksum right", file=sys.stderr)
    return True


def _set_aside(target: Path) -> None:
    if target.exists():
        # It may be the user's own work under the same name, so it is kept.
        aside = target.with_name(target.name + ".old")
        os.replace(target, aside)
        print(f"{target}  was there before and is not known to be right; kept as {aside.name}", file=sys.stderr)


def _missing(file: File, folder: Path) -> int:
    part = folder / f"{file.local}.part"
    return max(0, (file.size or file.about) - (part.stat().st_size if part.exists() else 0))


def _look_for(item: Item, from_dir: str) -> dict[str, Path]:
    """Every file of `item` in a folder laid out as the source is, or flat; all that are missing in one report."""
    base = Path(from_dir)
    if not base.is_dir():
        raise UserError("there is no such folder", where=from_dir, fix="--from_dir FOLDER")
    found, problems = {}, []
    for file in item.files:
        places = [base / item.path / file.name, base / item.folder / file.local, base / file.local, base / file.name]
        place = next((place for place in places if place.is_file()), None)
        if place:
            found[file.name] = place
        else:
            problems.append(UserError(f"{file.name} is missing", where=str(places[0]), fix=f"or put it at {places[2]}"))
    if problems:
        raise Problems(f"{from_dir} does not hold all of {item.name}", problems)
    return found


def _copy(source: Path, target: Path, file: File, ready: Callable[[Receipt], None]) -> Receipt:
    digest, size = hashlib.sha256(), 0
    with files.atomic_writer(target) as out, open(source, "rb") as stream:
        while piece := stream.read(1 << 20):
            out.write(piece)
            digest.update(piece)
            size += len(piece)
        if size != (file.size or size) or digest.hexdigest() != (file.sha256 or digest.hexdigest()):
            raise Failure(
                f"the file is damaged or another one: {size:,} bytes, sha256 {digest.hexdigest()}; expected "
                f"{file.size or size:,} bytes, sha256 {file.sha256 or 'unknown'}",
                where=str(source),
                fix="copy it from its source again",
            )
        receipt = Receipt(size, digest.hexdigest(), source.absolute().as_uri())
        ready(receipt)
    return receipt


def _read_ledger(folder: Path) -> dict[str, Receipt]:
    try:
        found = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
        return {name: Receipt(int(row["size"]), str(row["sha256"]), str(row["url"])) for name, row in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Without it the files are fetched again, nothing worse.
        return {}


def _write_ledger(folder: Path, ledger: dict[str, Receipt]) -> None:
    rows = {name: receipt._asdict() for name, receipt in ledger.items()}
    files.write_text(folder / LEDGER, json.dumps(rows, indent=1) + "\n")
