"""Logging of every program: our lines from INFO on, libraries only when something fails."""

import logging
import warnings

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
# What they say at INFO and WARNING is about packages that are optional here (apex, Transformer
# Engine) or about their own future.
_THIRD_PARTIES = ("megatron", "torch", "transformers")
_NOTICES = (UserWarning, FutureWarning, DeprecationWarning)


def start_logging() -> None:
    """Set up this process. Call before importing a program: Megatron warns while it is imported."""
    logging.basicConfig(level=logging.INFO, format=_FORMAT)
    for package in _THIRD_PARTIES:
        logging.getLogger(package).setLevel(logging.ERROR)
        for category in _NOTICES:
            warnings.filterwarnings("ignore", category=category, module=rf"{package}(\.|$)")
