from __future__ import annotations

import inspect
import re

import pytest

from detect import errors
from detect.errors import DetectError

ERRORS = [found for _, found in inspect.getmembers(errors, inspect.isclass) if found is not DetectError]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_of_a_user_is_caught_as_one_kind_and_as_python_names_it(error):
    assert issubclass(error, DetectError)
    assert issubclass(error, ValueError | RuntimeError | OSError | ImportError)


def test_the_tree_in_the_docstring_names_every_error():
    drawn = re.findall(r"^(?:[├└]── )?(\w+Error)\b", errors.__doc__ or "", flags=re.MULTILINE)
    assert sorted(drawn) == sorted(error.__name__ for error in [DetectError, *ERRORS])
