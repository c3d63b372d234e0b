"""What the fuzz tests share."""

import json
from contextlib import contextmanager

from hypothesis import settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from transformers_pat.cli.app import app

FUZZ = settings(settings.get_profile("fuzz"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@contextmanager
def one_line():
    """Lets a `ValueError` of one line pass."""
    try:
        yield
    except ValueError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))


def run(*arguments):
    """A command, which may end with 0; or with 1 or 2 and lines of messages, never with a stack trace."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code in (0, 1, 2), (arguments, result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code == 2 and "Usage:" not in result.stderr:
        assert result.stderr.count("\n") == 1, result.stderr
    return result


def damaged(content: bytes):
    """A copy with some bytes changed, or cut off."""
    flips = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), min_size=1, max_size=4)

    def change(given):
        kept, changes = given
        changed = bytearray(content)
        for place, value in changes:
            changed[place] ^= value
        return bytes(changed[:kept])

    return st.tuples(st.integers(0, len(content)) | st.just(len(content)), flips).map(change)


def changed_json(data, text: str) -> str:
    """The JSON with one field, however deep, changed, dropped or added."""
    content = json.loads(text)
    places = []

    def walk(node):
        if isinstance(node, dict | list):
            places.append(node)
            for value in node.values() if isinstance(node, dict) else node:
                walk(value)

    walk(content)
    place = data.draw(st.sampled_from(places))
    keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
    new = ["new"] if isinstance(place, dict) else []
    if not keys + new:
        return text
    key = data.draw(st.sampled_from([*keys, *new]))
    if key in keys and data.draw(st.integers(0, 4)) == 0:
        del place[key]
    else:
        place[key] = data.draw(JSON)
    return json.dumps(content)
