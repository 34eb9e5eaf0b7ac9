"""Text to ids and back: GPT-2's byte pairs, your own trained byte pairs, characters or plain bytes.

>>> from tfgpt import tokenizers
>>> tokenizer = tokenizers.from_name("byte")
>>> tokenizer.encode("hé")
[104, 195, 169]
>>> tokenizer.decode([104, 195, 169])
'hé'
"""

from tfgpt.tokenizers.base import StreamDecoder, Tokenizer
from tfgpt.tokenizers.loading import from_name, load
from tfgpt.tokenizers.training import train_bpe, train_char

__all__ = ["StreamDecoder", "Tokenizer", "from_name", "load", "train_bpe", "train_char"]
