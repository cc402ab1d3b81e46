"""Which errors are the user's, to be told in one line, and which are to show their traceback."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["UsageError", "refused_by_layers", "refused_by_us"]

_US = f"{Path(__file__).parent.parent}{os.sep}"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


class UsageError(Exception):
    """What is wrong with the arguments or the files that they name; its message is one line of 400 at most.

    >>> str(UsageError("--weights", ValueError("two\\n\\tlines")))
    '--weights: two lines'
    """

    def __init__(self, *parts: object) -> None:
        text = " ".join(": ".join(str(part) for part in parts if str(part)).split())
        super().__init__(text if len(text) <= 400 else text[:397] + "...")


@contextmanager
def refused_by_us() -> Iterator[None]:
    """Errors of this package that name an argument, and those of folders. Others, from inside a model, are no usage."""
    try:
        yield
    except OSError as error:
        raise UsageError(error) from error
    except (TypeError, ValueError, RuntimeError) as error:
        if _raised_in(error, _US) and re.match(r"[\w, ]+: ", str(error)):
            raise UsageError(error) from error
        raise


@contextmanager
def refused_by_layers(what: str) -> Iterator[None]:
    """What layers of torch's and of this package cannot compute is `what` was given. Others are the model's errors."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        if _raised_in(error, _US, _TORCH):
            raise UsageError(what, error) from error
        raise


def _raised_in(error: BaseException, *folders: str) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.startswith(folders)
