"""Writes docs/conformance.md: how many of transformers' common tests pass, and why the others are skipped."""

from collections import Counter
from pathlib import Path

import torch
import transformers
from skips import PREFIX
from transformers.utils import is_torchvision_available

MIXINS = {
    "PatModelTest": "`ModelTesterMixin`, `ConfigTester`",
    "PatImageProcessingTest": "`ImageProcessingTestMixin`, `PostProcessSemanticSegmentationTestMixin`",
    "PatProcessorTest": "`ProcessorTesterMixin`",
}
INTRO = """# Transformers' common tests

`make conformance` runs the tests that transformers has for its own models on PAT's classes. It downloads the source
archive of the installed transformers, because the wheel has no tests, and writes this page.
`test_model_get_set_embeddings` is our own, as in the tests of transformers' vision models: PAT's input embedding is a
convolution.

This page: transformers {transformers}, torch {torch}, {torchvision} torchvision, without a GPU.

| Tests | Passed | Skipped | Failed |
|---|---|---|---|
"""
PIPELINES = """
`PipelineTesterMixin` is not among them: it loads its models from the Hub, and the archive does not have the tests that
it runs. `tests/processing` tests our pipelines.
"""


def write_page(outcomes: dict[str, list], page: Path) -> None:
    """Write the page from pytest's reports by outcome; a run of a part of the tests leaves it as it is."""
    tests = {
        name: [r for r in outcomes.get(name, ()) if getattr(r, "nodeid", "")]
        for name in ("passed", "skipped", "failed")
    }
    if {_class(report) for reports in tests.values() for report in reports} != set(MIXINS):
        return
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0]}
    text = INTRO.format(**versions, torchvision="with" if is_torchvision_available() else "without")
    for test_class, mixins in MIXINS.items():
        counts = [sum(_class(report) == test_class for report in tests[name]) for name in tests]
        text += f"| {mixins} | {counts[0]} | {counts[1]} | {counts[2]} |\n"
    reasons = [(report.nodeid.rpartition("::")[2], _reason(report)) for report in tests["skipped"]]
    text += PIPELINES + "\n## Skipped because PAT differs\n\n| Test | Reason |\n|---|---|\n"
    for name, reason in sorted(reasons):
        if reason.startswith(PREFIX):
            text += f"| `{name}` | {reason.removeprefix(PREFIX)} |\n"
    text += "\n## Skipped by transformers' tests themselves\n\n| Reason | Tests |\n|---|---|\n"
    for reason, count in Counter(reason for _, reason in reasons if not reason.startswith(PREFIX)).most_common():
        text += f"| {reason} | {count} |\n"
    page.write_text(text, encoding="utf-8")


def _class(report) -> str:
    return report.nodeid.split("::")[1]


def _reason(report) -> str:
    return report.longrepr[2].removeprefix("Skipped: ").replace("|", "\\|").replace("\n", " ")
