"""What turns files into text. `default_parsers()` knows every format that Perdure reads."""

from perdure.parsers.registry import Parsers, default_parsers
from perdure.parsers.sandbox import Limits

__all__ = ["Limits", "Parsers", "default_parsers"]
