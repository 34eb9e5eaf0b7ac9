"""What a training run did, read from its metrics.jsonl alone: numbers, one offline HTML page, and a picture.

>>> from tfgpt import report
>>> report.write(["models/mine"], "report.html")                      # doctest: +SKIP
>>> report.read("models/mine").best_eval.loss                         # doctest: +SKIP
3.214
"""

from tfgpt.report.history import History, read
from tfgpt.report.image import write_png
from tfgpt.report.page import write

__all__ = ["History", "read", "write", "write_png"]
