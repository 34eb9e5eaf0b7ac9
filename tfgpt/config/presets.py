"""Finding a configuration by path or by a preset's name."""

from __future__ import annotations

from pathlib import Path

from tfgpt.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent
# In the repository the presets stand beside the package, where people look; an installed package carries them inside.
PRESETS = next(
    (f for f in (_PACKAGE.parent / "model_configs", _PACKAGE / "model_configs") if (f / "117M.json").is_file()),
    _PACKAGE,
)


def preset_names() -> list[str]:
    """Names that `--model` takes in place of a path.

    >>> "117M" in preset_names()
    True
    """
    return sorted(path.name[: -len(".json")] for path in PRESETS.glob("*.json"))


def find(name: str) -> Path:
    """The file that `name` means: a path first, then ./model_configs/NAME.json, then a preset of tfgpt's own."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.name and path.suffix != ".json" and path.with_name(path.name + ".json").is_file():
        return path.with_name(path.name + ".json")
    if path.name == name:
        # 1.5B has a suffix of its own, so the ending is cut only where it is .json.
        stem = name[: -len(".json")] if name.endswith(".json") else name
        for folder in (Path("model_configs"), PRESETS):
            if (folder / f"{stem}.json").is_file():
                return folder / f"{stem}.json"
    files = [str(entry) for entry in sorted(path.parent.glob("*.json"))[:1000]] if path.parent.is_dir() else []
    guess = nearest(name, [*preset_names(), *files])
    what = f'"{name}" is a folder, not a JSON file' if path.is_dir() else f'no configuration "{name}"'
    raise UserError(
        what, where=str(path.absolute()), nearest=guess, fix=f"a path, or one of: {', '.join(preset_names())}"
    )
