"""
Coverage-guided fuzzing of the parsers that are ours, with atheris.

    python -m tests.fuzz.guided all -max_total_time=60

Each target takes any bytes and must return, or raise a `ValueError` of one line. Options are libFuzzer's.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["transformers_pat"]):
    from transformers_pat.archive.packing import packed_size, unpack
    from transformers_pat.archive.shards import ArchiveInfo
    from transformers_pat.data.base import index_classes, read_classes
    from transformers_pat.data.layouts import read_color_table
    from transformers_pat.data.source import read_source
    from transformers_pat.onnx import FACTS_FILE, Facts
    from transformers_pat.prompts_pat import build_prompts, check_labels, resolve_templates, split_candidate_labels

FOLDER = Path(tempfile.mkdtemp())


def class_list(content: bytes) -> None:
    path = FOLDER / "classes.txt"
    path.write_bytes(content)
    classes = read_classes(path)
    assert all(name == name.strip() and name for name in classes.values())
    names, mapping = index_classes(classes, ignore_index=255)
    assert len(names) <= len(classes) and mapping.ignore_index == 255


def color_table(content: bytes) -> None:
    path = FOLDER / "colors.txt"
    path.write_bytes(content)
    read_color_table(path)


def labels(content: bytes) -> None:
    text, _, template = content.decode("utf-8", "replace").partition("\0")
    words = check_labels(split_candidate_labels(text))
    templates = resolve_templates([template] if template else "simple")
    prompts, owners = build_prompts(words, templates)
    assert len(prompts) == len(owners) and set(owners) == set(range(len(words)))


def archive_description(content: bytes) -> None:
    info = ArchiveInfo.from_json(content)
    assert ArchiveInfo.from_json(info.to_json()) == info


def packed_codes(content: bytes) -> None:
    data = atheris.FuzzedDataProvider(content)
    bits, count = data.ConsumeIntInRange(1, 16), data.ConsumeIntInRange(0, 200)
    packed = np.frombuffer(data.ConsumeBytes(500), dtype=np.uint8)[None]
    codes = unpack(packed, bits, count)
    assert packed.shape[1] == packed_size(count, bits) and codes.shape == (1, count)


def export_facts(content: bytes) -> None:
    (FOLDER / FACTS_FILE).write_bytes(content)
    Facts.load(FOLDER)


def data_source(content: bytes) -> None:
    read_source(content.decode("utf-8", "replace"))


TARGETS = (class_list, color_table, labels, archive_description, packed_codes, export_facts, data_source)


def main() -> None:
    name, *options = sys.argv[1:]
    if name == "all":  # libFuzzer ends its process
        for one in TARGETS:
            print(f"--- {one.__name__}", flush=True)
            subprocess.run([sys.executable, "-m", "tests.fuzz.guided", one.__name__, *options], check=True)
        return
    target = next(one for one in TARGETS if one.__name__ == name)

    def run(content: bytes) -> None:
        try:
            target(content)
        except ValueError as error:
            assert str(error) and "\n" not in str(error), repr(str(error))

    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
