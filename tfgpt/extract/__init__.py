"""Pages of HTML, in archives or folders, become one plain text file per page.

>>> from tfgpt.extract import extract
>>> summary = extract(["RS_2017-04_data.tar.xz"], "parsed")   # doctest: +SKIP
>>> summary.kept, summary.empty, summary.failed               # doctest: +SKIP
(91233, 6120, 14)
"""

from tfgpt.extract.job import Summary, extract
from tfgpt.extract.limits import Limits

__all__ = ["Limits", "Summary", "extract"]
