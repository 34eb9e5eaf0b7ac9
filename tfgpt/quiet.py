"""TensorFlow's start-up lines go past its own switches, straight to the process's stderr; here they are held back."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_start() -> Iterator[None]:
    """Hold back what libraries write to stderr while the block runs; it is shown after all if the block fails.

    >>> with quiet_start():
    ...     import tensorflow
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0":
        yield  # somebody wants to see it
        return
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        yield  # there is no stderr
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
