"""Which photos train CLIP, which train PAT, and which measure both.

PAT has to learn from features of photos that its CLIP was not trained on, as it does on a CLIP from the Hub: on photos
that the vision tower knows by heart there is nothing left for a segmenter to put right.
"""

from __future__ import annotations

from pathlib import Path

from transformers_pat.data import FolderDataset

# The splits that no training uses.
MEASURED = {"camvid": "val", "msrc_v2": "test", "voc_animals": "val"}
SHARE = 4  # every fourth training photo is PAT's
# A drive of a film instead, because neighbouring frames show the same.
DRIVES = {"camvid": "0006R0"}


def measured_sets(data: Path) -> dict[str, FolderDataset]:
    """The splits that no training uses."""
    return {name: FolderDataset(data / name, split) for name, split in MEASURED.items()}


def divide(data: Path, output: Path, names: list[str]) -> None:
    """Writes output/NAME with the splits clip and pat beside the ones that are there."""
    for name in names:
        source, target = data / name, output / name
        (target / "splits").mkdir(parents=True, exist_ok=True)
        for part in ("images", "masks", "classes.txt"):
            if not (target / part).exists():
                (target / part).symlink_to(source / part)
        splits = {path.stem: path.read_text(encoding="utf-8") for path in (source / "splits").glob("*.txt")}
        stems = [stem for stem in splits["train"].split("\n") if stem.strip()]
        drive = DRIVES.get(name)
        pat = [stem for stem in stems if stem.startswith(drive)] if drive else stems[SHARE - 1 :: SHARE]
        splits["pat"] = "\n".join(pat)
        splits["clip"] = "\n".join(stem for stem in stems if stem not in set(pat))
        for split, text in splits.items():
            (target / "splits" / f"{split}.txt").write_text(text, encoding="utf-8")
