"""What finds the article in a page: newspaper, trafilatura, or a function of the user's own.

An engine is a function that takes the page's HTML and gives its text, or an empty string. It is built once in each
worker process and may not use the network: everything it needs is in the page.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from tfgpt.errors import UserError, nearest
from tfgpt.extract.pages import NoPage

Engine = Callable[[str], str]

# Run once when a worker starts: newspaper imports some of its parts only when the first page comes.
SAMPLE = "<html><head><title>A page</title></head><body><article><p>The one who was here has gone.</p></article></body></html>"


def newspaper(language: str) -> Engine:
    """newspaper4k, or newspaper3k where that one is installed: both answer to the same names."""
    import newspaper
    from newspaper.utils import get_available_languages

    known = sorted(get_available_languages())
    if language not in known:
        raise UserError(
            f'newspaper {newspaper.__version__} does not know the language "{language}"',
            nearest=nearest(language, known) or ", ".join(known),
            fix="--language en",
        )
    config = newspaper.Config()
    config.language = language
    config.fetch_images = False
    config.memoize_articles = False
    # Both cut the text at 100,000 characters, each under its own name for that limit.
    config.MAX_TEXT = config.max_text = sys.maxsize

    def text(html: str) -> str:
        refuse_endless(html)
        # The address is never visited; newspaper3k refuses to start without one.
        article = newspaper.Article("http://localhost/", config=config)
        article.download(input_html=html)
        article.parse()
        return article.text or ""

    return text


def trafilatura(language: str) -> Engine:
    """trafilatura, which needs no language."""
    from trafilatura import extract

    def text(html: str) -> str:
        refuse_endless(html)
        return extract(html, include_comments=False) or ""

    return text


def refuse_endless(html: str) -> None:
    """Raise pages.NoPage where libxml2 would leave the rest of a page away without a word, as it does beyond a depth."""
    import lxml.etree
    import lxml.html

    if not html.strip():
        return
    parser = lxml.html.HTMLParser()
    try:
        lxml.html.fromstring(html, parser=parser)
    except lxml.etree.ParserError as error:
        raise NoPage(f"no HTML: {error}") from error
    for entry in parser.error_log:
        if "Excessive depth" in entry.message or entry.type_name == "ERR_RESOURCE_LIMIT":
            raise NoPage(f"nested too deeply: {entry.message.split(',')[0]}")


ENGINES: dict[str, Callable[[str], Engine]] = {"newspaper": newspaper, "trafilatura": trafilatura}


def check_name(name: str) -> None:
    """Refuse a name that can be no engine, before any process is started."""
    if name not in ENGINES and ":" not in name:
        raise UserError(
            f'unknown engine "{name}"',
            nearest=nearest(name, list(ENGINES)) or " or ".join(ENGINES),
            fix='--engine newspaper, or a function f(html, language) of your own as "package.module:function"',
        )


def build(name: str, language: str) -> Engine:
    """The engine called `name`, ready and proved on a small page.

    >>> build("trafilatura", "en")("<html><body><article><p>Some text that is long enough.</p></article></body></html>")
    'Some text that is long enough.'
    """
    check_name(name)
    if name not in ENGINES:
        return _own(name, language)
    try:
        engine = ENGINES[name](language)
        engine(SAMPLE)
    except ImportError as error:
        raise UserError(
            f"{name} cannot be imported: {error}", where="--engine " + name, fix='pip install "tfgpt[extract]"'
        ) from error
    return engine


def _own(name: str, language: str) -> Engine:
    module_name, _, function_name = name.partition(":")
    # Last, so that a file in the present folder can never stand in for an installed package.
    sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f'the engine "{name}" cannot be imported: {error}',
            fix="give a function f(html, language) of a module in this folder or an installed package",
        ) from error

    def text(html: str) -> str:
        found = function(html, language)
        if not isinstance(found, str | None):
            raise TypeError(f"{name} must give text or None, not {type(found).__name__}")
        return found or ""

    return text
