"""The error tree: `__all__` and the drawing in the docstring list every error."""

import inspect
import re

from forecaster.domain import errors


def test_all_lists_every_error() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(errors.__all__) == classes
    assert all(issubclass(getattr(errors, name), errors.ForecasterError) for name in errors.__all__)


def test_docstring_draws_each_error_under_its_parent() -> None:
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+)", line)
        if found:
            depth = (found.start(2) - 4) // 4
            parents[depth:] = [found[2]]
            bases = [base.__name__ for base in getattr(errors, found[2]).__bases__]
            assert bases == [parents[depth - 1] if depth else "Exception"]
    drawn = set(re.findall(r"\b[A-Z]\w+(?= {2,}|\n)", errors.__doc__ or ""))
    assert drawn == set(errors.__all__)
