"""Keras imports matplotlib where it is installed, for pictures that no verb draws: half a second and 30 MB of each start."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

WANT_IT = ("keras.src.visualization", "keras.visualization")


class _WithoutPictures(MetaPathFinder):
    """Says to Keras, while it is being imported, that there is no matplotlib; all others find it as ever."""

    def find_spec(self, name, path=None, target=None):
        specs = [getattr(sys.modules.get(module), "__spec__", None) for module in WANT_IT]
        if name == "matplotlib" and any(getattr(spec, "_initializing", False) for spec in specs):
            raise ModuleNotFoundError("Keras can do without it", name=name)


def skip_pictures() -> None:
    """For a process that is ours alone: in a notebook, Keras' pictures are the user's to draw."""
    if not any(isinstance(finder, _WithoutPictures) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutPictures())
