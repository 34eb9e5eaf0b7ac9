"""The folder that an encode writes into: what of it is ours, whether a job was finished or begun there, and clearing it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tfgpt import files
from tfgpt.data import ledger
from tfgpt.data.ledger import Ledger
from tfgpt.data.shards import INDEX_SUFFIX
from tfgpt.errors import Failure, UserError

WORK = ".encode"
STATE = "state.json"
OLD = "old"  # in the work folder: the data set that --restart replaces


class OutputFolder:
    """Everything about the folder but the shards themselves.

    Nothing is ever removed that a ledger or a state of ours does not name: the folder is the user's.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.work = path, name, path / WORK
        self._made = not path.exists()
        if not self._made and not path.is_dir():
            raise UserError(
                "the output is not a folder", where=str(path), fix=f"choose another one: --output {path}.data"
            )

    def state(self) -> dict[str, Any] | None:
        """The state of an unfinished encode, whichever it was."""
        try:
            return json.loads((self.work / STATE).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Failure(
                f"the state of an interrupted encode cannot be read: {error}",
                where=str(self.work / STATE),
                fix=f"delete the folder {self.path} and encode anew",
            ) from None

    def resume(self, fingerprint: str) -> dict[str, Any] | None:
        """The state to go on from; an unfinished encode of something else is an error, unless it had not got anywhere."""
        state = self.state()
        if state is None:
            self._refuse_strangers()
            return None
        if state["fingerprint"] == fingerprint:
            return state if "splits" in state else None
        if state.get("done", [0, 0]) == [0, 0]:
            self.clear()
            return None
        raise UserError(
            "an encode of other input or with other settings was interrupted in this folder",
            where=str(self.path),
            fix="repeat that command to finish it, or add --restart to begin anew",
        )

    def begin(self, fingerprint: str) -> None:
        """From here on, what appears in the folder is ours."""
        self._refuse_strangers()
        files.write_text(self.work / STATE, json.dumps({"fingerprint": fingerprint, "name": self.name}))

    def set_aside(self) -> None:
        """Move a finished data set of ours out of the way, until its replacement is finished as well."""
        if (self.path / ledger.NAME).exists():
            old = self.work / OLD
            shutil.rmtree(old, ignore_errors=True)
            old.mkdir()
            known = ledger.read(self.path)
            names = [
                ledger.NAME,
                ledger.TOKENIZER_FOLDER,
            ]  # the ledger first: without it, nothing claims to be complete
            for shards in known.splits.values():
                names += [name for shard in shards for name in (shard.file, shard.file + INDEX_SUFFIX)]
            for name in names:
                if (self.path / name).exists():
                    (self.path / name).rename(old / name)

    def bring_back(self) -> None:
        """The replacement came to nothing: what was set aside takes its place again, the ledger last."""
        old = self.work / OLD
        kept = sorted(old.iterdir(), key=lambda path: path.name == ledger.NAME) if old.exists() else []
        for path in kept:
            path.rename(self.path / path.name)

    def recover(self) -> None:
        """Undo a `set_aside` that a kill cut short, before anything of the replacement was begun."""
        if self.state() is None and not (self.path / ledger.NAME).exists():
            self.bring_back()

    def end(self) -> None:
        """The encode is finished; a kill before this leaves work behind that the next start removes."""
        (self.work / STATE).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove a finished or unfinished data set of ours."""
        state, shards = self.state(), []
        if (self.path / ledger.NAME).exists():
            known = ledger.read(self.path)
            shards += [shard.file for split in known.splits.values() for shard in split]
        if state:
            for name in (state["name"], f"{state['name']}-eval"):
                shards += [p.name for p in self.path.glob(f"{name}_*.tfrecords") if p.stem.rsplit("_", 1)[1].isdigit()]
        (self.path / ledger.NAME).unlink(missing_ok=True)
        for shard in shards:
            (self.path / shard).unlink(missing_ok=True)
            (self.path / (shard + INDEX_SUFFIX)).unlink(missing_ok=True)
        if state or shards:
            shutil.rmtree(self.path / ledger.TOKENIZER_FOLDER, ignore_errors=True)
        for path in self.work.iterdir() if self.work.exists() else ():
            if path.name not in ("lock", OLD):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def leave(self) -> None:
        """Before the lock is given back: take away the work folder unless there is something to go on from."""
        if not (self.work / STATE).exists():
            shutil.rmtree(self.work, ignore_errors=True)
            if self._made and self.path.exists() and not any(self.path.iterdir()):
                self.path.rmdir()

    def sweep(self) -> None:
        """Remove temporary files of a start that was killed in the middle of writing one."""
        for stem in (self.name, f"{self.name}-eval", ledger.TOKENIZER_FOLDER, ledger.NAME):
            for path in self.path.glob(f".{stem}*.tmp-*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in (self.path / ledger.TOKENIZER_FOLDER).glob(".*.tmp-*"):
            path.unlink()

    def _refuse_strangers(self) -> None:
        """Files under the names that we are about to write, and no word from us about them."""
        if (self.path / ledger.NAME).exists():
            return  # a finished data set of ours, about which `finished` decides
        found = [
            p for pattern in (f"{self.name}_*", f"{self.name}-eval_*") for p in self.path.glob(pattern + ".tfrecords")
        ]
        found += [p for p in (self.path / ledger.TOKENIZER_FOLDER,) if p.exists()]
        if found:
            raise UserError(
                "this folder holds files that this encode would overwrite and that tfgpt did not make here",
                where=str(found[0]),
                fix="choose another --output or --name, or move them away",
            )


def finished(place: str, fingerprint: str) -> Ledger | None:
    """The ledger, if this very job is finished in `place` (a folder or a bucket) and its shards are there."""
    if not files.exists(files.join(place, ledger.NAME)):
        return None
    present = ledger.read(place)
    if present.sources.get("fingerprint") != fingerprint:
        raise UserError(
            "this folder holds a finished data set made from other input or with other settings",
            where=place,
            fix="choose another --output, or add --restart to replace it",
        )
    for shards in present.splits.values():
        for shard in shards:
            path = files.join(place, shard.file)
            if not files.exists(path) or files.stat(path).size != shard.bytes:
                raise Failure(
                    "the data set is finished, but this shard of it is missing or of another size",
                    where=path,
                    fix="restore the file, or add --restart to encode anew",
                )
    return present
