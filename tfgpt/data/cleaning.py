"""`ftfy.fix_text(normalization="NFKC")`, at the speed of a scan for text that ftfy would leave alone.

ftfy works line by line and spends some 20 microseconds on every line, which makes it, not the tokenizer, the slow part of
an encode. Most lines give it nothing to do. Here a regular expression finds the lines that it might change; only they go
through ftfy, the rest is copied in large pieces. Four kinds of characters are known to be harmless:

* plain: printable ASCII, tab and newline ("&" only where HTML entities are not undone any more);
* isolated: accented Latin letters and typographic marks with plain characters on both sides. ftfy's test for mojibake needs
  two unusual neighbours, so one alone is only mapped (a curly quote to a straight one, an ellipsis to three dots). The
  table is asked of the installed ftfy itself, so it cannot drift from it;
* quotes: curly quotes, dashes and the ellipsis, likewise, but also next to each other, as dialogue has them;
* neutral: letters of scripts that mojibake is not made of, among themselves and between plain characters.

The tests hold `clean` against ftfy on random and exhaustive mixtures of all of these.
"""

from __future__ import annotations

import re
from functools import lru_cache

import ftfy

# "&" is the one printable ASCII character that ftfy may act on (it starts an HTML entity).
PLAIN = r"\t\n\x20-\x25\x27-\x7e"
_PLAIN_BYTES = bytes({9, 10, *range(0x20, 0x7F)} - {ord("&")})
# Cyrillic, Hebrew, Arabic, kana, CJK ideographs and Hangul syllables: never changed by NFKC and, among themselves, never
# part of what ftfy looks for. Combining marks, jamo and presentation forms are left out on purpose: NFKC changes those.
NEUTRAL = "А-яёЁא-תء-غف-يぁ-ゖァ-ヺ一-鿿가-힣"
QUOTES = "‘’“”–—…"
# Accented Latin letters, currency and typographic marks that are worth knowing; ftfy decides which of them pass.
_CANDIDATES = "".join(map(chr, [*range(0xA0, 0x180), *range(0x2010, 0x2048), 0x20AC, 0x2122, 0x2190, 0x2192, 0x2212]))
_CONTEXTS = (
    ("a", "a"),
    ("Z", "Z"),
    (" ", " "),
    ("1", "1"),
    (".", ","),
    ("", ""),
    ("a ", " "),
    ("<", '"'),
    ("\n", "\n"),
)


@lru_cache(maxsize=1)
def _table() -> tuple[dict[str, str], re.Pattern[str], re.Pattern[str]]:
    """What isolated characters become, and the two patterns (before and after the first "<") of what ftfy must look at."""
    config = ftfy.TextFixerConfig(explain=False, normalization="NFKC")
    becomes: dict[str, str] = {}
    for character in _CANDIDATES:
        found = set()
        for before, after in _CONTEXTS:
            fixed = ftfy.fix_text(before + character + after, config)
            inside = fixed.startswith(before) and fixed.endswith(after) and len(fixed) > len(before + after)
            found.add(fixed[len(before) : len(fixed) - len(after)] if inside else None)
        (value, *others) = found
        if not others and value is not None:
            becomes[character] = value
    quotes = "".join(c for c in QUOTES if c in becomes)
    isolated = re.escape("".join(c for c in becomes if c not in quotes))
    # A character of no known kind, or one whose right neighbour is not of a kind that goes with it. One pattern that begins
    # with a single character class: Python's `re` scans for that ten times faster than for alternatives.
    template = (
        "[^{plain}](?:(?<=[^{isolated}{quotes}{neutral}])|(?<=[{isolated}])(?=[^{plain}])"
        "|(?<=[{quotes}])(?=[^{plain}{quotes}])|(?<=[{neutral}])(?=[{isolated}{quotes}]))"
    )
    kinds = {"isolated": isolated, "quotes": quotes, "neutral": NEUTRAL}
    with_entities = re.compile(template.format(plain=PLAIN, **kinds))
    without_entities = re.compile(template.format(plain=PLAIN + "&", **kinds))
    changed = {character: value for character, value in becomes.items() if value != character}
    return changed, with_entities, without_entities


def clean(text: str) -> str:
    """The same string as `ftfy.fix_text(text, normalization="NFKC")`.

    >>> clean("It’s ﬁne… caf&eacute;")
    "It's fine... café"
    """
    if text.isascii() and not text.encode("ascii").translate(None, _PLAIN_BYTES):
        return text
    becomes, with_entities, without_entities = _table()
    # ftfy stops undoing HTML entities from the line of the first "<" on.
    tag = text.find("<")
    entities_end = len(text) if tag < 0 else text.rfind("\n", 0, tag) + 1
    pieces: list[str] = []
    position = 0
    for end, pattern, entities in ((entities_end, with_entities, True), (len(text), without_entities, False)):
        config = ftfy.TextFixerConfig(explain=False, normalization="NFKC", unescape_html="auto" if entities else False)
        while position < end:
            match = pattern.search(text, position, end)
            if match is None:
                pieces.append(_map(text[position:end], becomes))
                position = end
                break
            # The line is the unit that ftfy judges, so all of it goes there.
            line_start = text.rfind("\n", position, match.start()) + 1 or position
            line_end = text.find("\n", match.start(), end) + 1 or end
            pieces.append(_map(text[position:line_start], becomes))
            pieces.append(ftfy.fix_text(text[line_start:line_end], config))
            position = line_end
    return pieces[0] if len(pieces) == 1 else "".join(pieces)


def _map(piece: str, becomes: dict[str, str]) -> str:
    if piece.isascii():
        return piece
    for character, value in becomes.items():
        if character in piece:
            piece = piece.replace(character, value)
    return piece
