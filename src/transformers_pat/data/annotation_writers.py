"""
Segmentations as data sets in the formats of labelling tools, with copies of the photos.

A label "background" becomes what each format has for it. Photos are copied as they are, or saved upright as PNG.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ..colors import label_colors
from ..image_io_pat import to_rgb
from ..prompts_pat import BACKGROUND
from .layouts import COLOR_TABLE, is_photo

EXIF_ORIENTATION = 0x0112


class AnnotationWriter:
    """
    One data set being written.

    Args:
        folder: Where it goes.
        labels: Names in the order of the ids in label maps; at most one is "background".
    """

    photo_folder = "images"

    def __init__(self, folder: Path, labels: Sequence[str]):
        self.folder, self.labels = folder, list(labels)
        (folder / self.photo_folder).mkdir(parents=True, exist_ok=True)

    def add(self, name: str, source: str, photo: Image.Image, label_map: np.ndarray) -> None:
        """
        Add one photo.

        Args:
            name: Name of the sample, unique in the data set.
            source: Path of the photo, if it is a file.
            photo: The photo, upright.
            label_map: (H, W) indices into `labels`.

        Raises:
            OSError: If something can't be written.
        """
        file_name = copy_photo(source, photo, self.folder / self.photo_folder / name)
        regions = {index: label_map == index for index in np.unique(label_map).tolist()}
        self.write(name, file_name, photo, {i: m for i, m in regions.items() if self.labels[i] != BACKGROUND})

    def write(self, name: str, file_name: str, photo: Image.Image, regions: dict[int, np.ndarray]) -> None:
        """Write the masks, (H, W) bool by label index, of one photo."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is about all photos."""


class CocoWriter(AnnotationWriter):
    """COCO instances: one annotation, as compressed RLE, per label and photo; `annotations/instances_default.json`."""

    def __init__(self, folder: Path, labels: Sequence[str]):
        super().__init__(folder, labels)
        self.content: dict = {"images": [], "annotations": [], "categories": categories(self.labels)}

    def write(self, name, file_name, photo, regions):
        """Keep the annotations until [`close`]."""
        from pycocotools import mask as rle

        image_id = len(self.content["images"]) + 1
        size = {"width": photo.width, "height": photo.height}
        self.content["images"].append({"id": image_id, "file_name": file_name, **size})
        for index, region in regions.items():
            encoded = rle.encode(np.asfortranarray(region, dtype=np.uint8))
            self.content["annotations"].append(
                {
                    "id": len(self.content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": index + 1,
                    "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                    "area": int(region.sum()),
                    "bbox": rle.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                }
            )

    def close(self):
        """Write the JSON file."""
        write_json(self.folder / "annotations" / "instances_default.json", self.content)


class PanopticWriter(AnnotationWriter):
    """COCO panoptic: a PNG of segment ids (red + 256 green, 0 = background) per photo, and `panoptic.json`."""

    def __init__(self, folder: Path, labels: Sequence[str]):
        super().__init__(folder, labels)
        (folder / "panoptic").mkdir(exist_ok=True)
        stuff = [{**category, "isthing": 0} for category in categories(self.labels)]
        self.content: dict = {"images": [], "annotations": [], "categories": stuff}

    def write(self, name, file_name, photo, regions):
        """Write the PNG; keep the segments until [`close`]."""
        image_id = len(self.content["images"]) + 1
        size = {"width": photo.width, "height": photo.height}
        ids = np.zeros((photo.height, photo.width, 3), dtype=np.uint8)
        segments = []
        for index, region in regions.items():
            number = index + 1
            ids[region] = (number % 256, number // 256, 0)
            rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
            segments.append(
                {
                    "id": number,
                    "category_id": number,
                    "area": int(region.sum()),
                    "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
                    "iscrowd": 0,
                }
            )
        Image.fromarray(ids).save(self.folder / "panoptic" / f"{name}.png")
        self.content["images"].append({"id": image_id, "file_name": file_name, **size})
        self.content["annotations"].append(
            {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments}
        )

    def close(self):
        """Write the JSON file."""
        write_json(self.folder / "panoptic.json", self.content)


class VocWriter(AnnotationWriter):
    """Pascal VOC: PNGs with a palette, 0 = background, 1 = the first label; `labelmap.txt` as CVAT has it."""

    photo_folder = "JPEGImages"

    def __init__(self, folder: Path, labels: Sequence[str]):
        super().__init__(folder, labels)
        if len(self.labels) > 255:
            raise ValueError(f"Pascal VOC has at most 255 classes, got {len(self.labels)} labels")
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        (folder / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        self.colors = np.concatenate([np.zeros((1, 3), dtype=np.uint8), label_colors(self.labels)])
        self.names: list[str] = []

    def write(self, name, file_name, photo, regions):
        """Write the PNG."""
        ids = np.zeros((photo.height, photo.width), dtype=np.uint8)
        for index, region in regions.items():
            ids[region] = index + 1
        picture = Image.fromarray(ids)
        picture.putpalette(self.colors.flatten().tolist())
        picture.save(self.folder / "SegmentationClass" / f"{name}.png")
        self.names.append(name)

    def close(self):
        """Write the list of photos and the table of colours."""
        listing = "".join(f"{name}\n" for name in self.names)
        (self.folder / "ImageSets" / "Segmentation" / "default.txt").write_text(listing, encoding="utf-8")
        rows = zip([BACKGROUND, *self.labels], self.colors.tolist(), strict=True)
        lines = [f"{name}:{','.join(map(str, color))}::\n" for name, color in rows]
        kept = [line for index, line in enumerate(lines) if not index or self.labels[index - 1] != BACKGROUND]
        (self.folder / COLOR_TABLE).write_text("".join(kept), encoding="utf-8")


class YoloWriter(AnnotationWriter):
    """
    YOLO segmentation: `labels/NAME.txt` with a line "class x y x y ..." per polygon, and `data.yaml`.

    YOLO has no holes: a region with holes is cut into parts without.
    """

    def __init__(self, folder: Path, labels: Sequence[str]):
        super().__init__(folder, labels)
        (folder / "labels").mkdir(exist_ok=True)
        self.classes = [index for index, label in enumerate(self.labels) if label != BACKGROUND]

    def write(self, name, file_name, photo, regions):
        """Write the text file."""
        # A quarter of a pixel in: readers that round and readers that truncate get the same pixel back.
        scale = np.array([photo.width, photo.height])
        lines = []
        for index, region in regions.items():
            for polygon in polygons(region):
                values = ((polygon + 0.25) / scale).flatten()
                lines.append(" ".join([str(self.classes.index(index)), *(f"{value:.7f}" for value in values)]))
        (self.folder / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def close(self):
        """Write the list of classes."""
        names = {number: self.labels[index] for number, index in enumerate(self.classes)}
        content = {"path": ".", "train": "images", "val": "images", "names": names}
        (self.folder / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


WRITERS: dict[str, type[AnnotationWriter]] = {
    "coco": CocoWriter,
    "coco-panoptic": PanopticWriter,
    "voc": VocWriter,
    "yolo": YoloWriter,
}


def copy_photo(source: str, photo: Image.Image, target: Path) -> str:
    """Copy a photo to `target` with its own ending, or save it as PNG if the file is turned or no JPEG or PNG."""
    if is_photo(Path(source)) and Path(source).is_file():
        with Image.open(source) as opened:
            upright = opened.getexif().get(EXIF_ORIENTATION, 1) == 1
        if upright:
            copied = target.with_name(target.name + Path(source).suffix.lower())
            shutil.copyfile(source, copied)
            return copied.name
    saved = target.with_name(f"{target.name}.png")
    to_rgb(photo).save(saved)
    return saved.name


def categories(labels: list[str]) -> list[dict]:
    """COCO's categories; ids count from 1."""
    return [{"id": index + 1, "name": label} for index, label in enumerate(labels) if label != BACKGROUND]


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, and its folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def polygons(region: np.ndarray) -> Iterator[np.ndarray]:
    """
    Polygons through the border pixels of a region; filled with their borders, they give exactly the region.

    Args:
        region: (H, W) bool.

    Yields:
        (num_points, 2) int64 x and y, at least 3 points.
    """
    import cv2

    contours, hierarchy = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    components = cv2.connectedComponents(region.astype(np.uint8))[1]
    for contour, (_, _, first_hole, outside) in zip(contours, hierarchy[0] if contours else (), strict=True):
        points = contour[:, 0].astype(np.int64)
        if outside >= 0:
            continue
        if first_hole < 0:
            yield points[np.arange(max(3, len(points))) % len(points)]
            continue
        # Cut along a row through the hole; each half has fewer holes.
        component = components == components[points[0, 1], points[0, 0]]
        row = int(contours[first_hole][:, 0, 1].min()) + 1
        for rows in (slice(0, row), slice(row, None)):
            half = np.zeros_like(region)
            half[rows] = component[rows]
            yield from polygons(half)
