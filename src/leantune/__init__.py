"""Fine-tune text classifiers inside a parameter budget."""

from leantune.errors import LeantuneError

__version__ = "0.1.0"
__all__ = ["LeantuneError", "__version__"]
