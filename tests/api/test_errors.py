import inspect
import pickle
import re
from pathlib import Path

import pytest

from rfp import errors
from rfp.errors import RfpError

pytestmark = pytest.mark.pure

CLASSES = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RfpError)
]
CONNECTION = (errors.ConnectionFailed, errors.DeadlineExceeded, errors.FabricError)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_keeps_its_hint_also_when_pickled(kind):
    error = kind("the fault", hint="the hint")
    assert str(error) == "the fault (the hint)"
    assert error.hint == "the hint"
    assert str(kind("the fault")) == "the fault"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not RfpError])
def test_every_error_belongs_to_exactly_one_family(kind):
    assert (
        sum(
            (
                issubclass(kind, errors.ServerRefused),
                issubclass(kind, errors.CallerError),
                issubclass(kind, CONNECTION),
            )
        )
        == 1
    )


def test_the_documentation_has_every_class_in_its_family():
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    sections = dict(
        zip(
            ["", *re.findall("^## (.*)$", text, re.M)],
            re.split("^## .*$", text, flags=re.M),
            strict=True,
        )
    )
    listed = {title: set(re.findall(r"^`(\w+)`", body, re.M)) for title, body in sections.items()}
    for title, family in (
        ("The server refused", errors.ServerRefused),
        ("The caller erred", errors.CallerError),
        ("The connection failed", CONNECTION),
    ):
        assert listed[title] == {kind.__name__ for kind in CLASSES if issubclass(kind, family)}
