"""Fetches transformers' common tests, which its wheel does not hold, from the source archive of the same version."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "examples" / "photos" / "china.jpg"
# What the common tests import and the archive lacks. None of it tests PAT: generation and the exporters are for
# classes that PAT has none of, and the rest reads transformers' own repository, or its pictures on the Hub.
STUBS = {
    "src/transformers/__init__.py": "",
    "transformers_tests/__init__.py": "",
    "transformers_tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "transformers_tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "transformers_tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": f"def url_to_local_path(url):\n    return {str(PHOTO)!r}\n",
}


def fetch() -> Path:
    """Return a folder that makes `transformers_tests` importable, after a download on the first call."""
    folder = ROOT / ".conformance" / f"transformers-{transformers.__version__}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            _download(Path(name))
            Path(name, "ready").rename(folder)
    return folder


def _download(folder: Path) -> None:
    release = f"transformers=={transformers.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-binary", "transformers", "--dest", folder, release], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        wanted = [member for member in source.getmembers() if member.name.partition("/")[2].startswith("tests/")]
        source.extractall(folder, wanted, filter="data")
    ready = folder / "ready"
    ready.mkdir()
    (folder / archive.name.removesuffix(".tar.gz") / "tests").rename(ready / "transformers_tests")
    for name, text in STUBS.items():
        path = ready / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
