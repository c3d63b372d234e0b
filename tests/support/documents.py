"""Parts of the repository's Markdown files."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_blocks(document: Path) -> list[tuple[str, str]]:
    """(line that precedes the block, code) of each Python block, also of those in lists."""
    text = document.read_text(encoding="utf-8")
    found = re.findall(r"([^\n]*)\n( *)```python\n(.*?)\n\2```", text, flags=re.DOTALL)
    return [(before, textwrap.dedent(code)) for before, _, code in found]


def command_lines(document: Path) -> list[str]:
    """The lines of all bash blocks, continued ones as one."""
    found = re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(found).replace("\\\n", " ").splitlines()


def links(document: Path) -> list[str]:
    """Targets of all links and pictures, outside of code."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(document: Path) -> set[str]:
    """What GitHub lets links to the document's headings end with, after "#"."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
