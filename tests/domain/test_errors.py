"""The error tree: `__all__` and the drawing in the docstring list every error, and each can be pickled."""

import inspect
import pickle
import re

import pytest

from forecaster.domain import errors


def test_all_lists_every_error() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and name != "Any"}
    assert set(errors.__all__) == classes - {"Mapping", "Sequence"}
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


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("horizon: must be at least 1"),
        errors.NoData("ABC", "no session"),
        errors.RequestRefused(422, "horizon: too long", [{"location": "horizon", "message": "too long"}]),
        errors.TooManyRequests("slow down", retry_after_seconds=2.0),
    ],
)
def test_error_from_a_process_pool_arrives_whole(error: errors.ForecasterError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))
