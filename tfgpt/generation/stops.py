"""Stop strings: found wherever the borders of tokens fall, and never shown, not even in part."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Lets text through up to the first stop string, and holds back what may yet become one.

    The stop string that is complete first counts; of several that end at the same character, the longest. So where the
    text is cut hangs on the text alone, not on the pieces in which it comes.

    >>> stop = StopText(["END"])
    >>> stop.push("the E"), stop.push("lm, the EN"), stop.push("D of"), stop.found
    ('the ', 'Elm, the ', '', 'END')
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """What can be shown now that `text` has come; after a stop string nothing ever."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        ends = [(place + len(stop), place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            _, place, self.found = min(ends)
            self._held = ""
            return text[:place]
        size = self._open_end(text)
        self._held = text[len(text) - size :]
        return text[: len(text) - size]

    def finish(self) -> str:
        """What was held back, once no more text comes."""
        rest, self._held = self._held, ""
        return rest

    def _open_end(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
