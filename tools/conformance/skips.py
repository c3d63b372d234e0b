"""Common tests that do not apply to PAT, each with its reason."""

import unittest

PREFIX = "PAT: "  # tells our reasons from those of transformers


def skips(reasons: dict[str, str]):
    """
    Decorate a test class: skip the tests named in `reasons`, test -> reason.

    Raises:
        ValueError: If there is no such test, so that no entry outlives its test.
    """

    def decorate(test_class: type) -> type:
        for name, reason in reasons.items():
            test = getattr(test_class, name, None)
            if test is None:
                raise ValueError(f"{test_class.__name__} has no {name}: delete it from the skipped tests")
            setattr(test_class, name, unittest.skip(PREFIX + reason)(test))
        return test_class

    return decorate
