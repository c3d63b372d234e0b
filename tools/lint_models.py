"""Run transformers-mlinter on the model files, without the rules that pyproject.toml turns off with a reason.

mlinter takes its settings from one file of rules, so this passes it the bundled file with those rules off.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Return mlinter's exit code."""
    ignored = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["lint_models"]["ignore"]
    rules = (files("mlinter") / "rules.toml").read_text(encoding="utf-8")
    for rule in ignored:
        rules, found = re.subn(rf"(\[rules\.{rule}\][^\[]*default_enabled = )true", r"\1false", rules)
        if not found:
            raise ValueError(f"pyproject.toml, tool.lint_models: mlinter has no rule {rule}, or it is off by default")
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder, "rules.toml")
        chosen.write_text(rules, encoding="utf-8")
        command = ["mlinter", "--no-cache", "--no-progress", "--rules-toml", chosen, ROOT / "src" / "transformers_pat"]
        return subprocess.run([Path(sys.executable).with_name("mlinter"), *command[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
