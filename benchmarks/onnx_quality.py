"""What exporting costs in quality: mIoU of ONNX graphs, float32 and int8, and how many pixels agree with PyTorch.

python benchmarks/onnx_quality.py DATA/camvid:val DATA/msrc_v2:test --photos examples/photos
python benchmarks/onnx_quality.py DATA/msrc_v2:test --photos examples/photos --limit 50 --model ViT-B/16

ViT-B/16 has random weights: its mIoU says nothing, how many places agree does.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from performance.timing import MODELS
from rich.console import Console

from transformers_pat import PatConfig, PatForSemanticSegmentation
from transformers_pat.data import FolderDataset
from transformers_pat.evaluation import evaluate_dataset
from transformers_pat.evaluation.report import markdown_table
from transformers_pat.export import export_onnx
from transformers_pat.loading import load_checkpoint
from transformers_pat.onnx import OnnxSegmenter
from transformers_pat.outputs_pat import PatSegmentationOutput


class First(FolderDataset):
    """A data set cut off after some photos."""

    def __init__(self, folder: str, split: str, limit: int | None):
        super().__init__(folder, split)
        self.length = min(limit or super().__len__(), super().__len__())

    def __len__(self) -> int:
        return self.length


class Compared:
    """Predicts with a runtime, and counts on the way how many places agree with PyTorch."""

    def __init__(self, folder: Path, words: list[str]):
        self.runtime = OnnxSegmenter(folder, torch.get_num_threads())
        self.class_embeds = self.runtime.get_class_embeds(words)
        self.equal = self.total = 0

    def __call__(self, model, pixel_values: torch.Tensor, text_embeds: torch.Tensor) -> PatSegmentationOutput:
        logits = self.runtime.segment(*self.runtime.read(pixel_values.numpy()), self.class_embeds)
        expected = model(pixel_values=pixel_values, text_embeds=text_embeds).logits
        agree = expected.argmax(1) == torch.from_numpy(logits).argmax(1)
        self.equal, self.total = self.equal + int(agree.sum()), self.total + agree.numel()
        return PatSegmentationOutput(logits=torch.from_numpy(logits))


def main(
    data: Annotated[list[str], typer.Argument(help="Data sets, each FOLDER:SPLIT.")],
    photos: Annotated[Path, typer.Option(help="Folder of photos for the static quantisation.")],
    model: str = "pat-nano",
    limit: Annotated[int | None, typer.Option(help="Photos per data set; all by default.")] = None,
) -> None:
    segmenter, processor = load_checkpoint(PatForSemanticSegmentation, "pat-nano" if model in MODELS else model)
    if model in MODELS:  # of true size but for the text tower, which is pat-nano's, as the tokenizer is
        text, dim = segmenter.config.text_config, segmenter.config.projection_dim
        torch.manual_seed(0)
        config = PatConfig(vision_config=MODELS[model][0], text_config=text, projection_dim=dim)
        segmenter = PatForSemanticSegmentation(config).eval()
    sets = [First(*name.rsplit(":", 1), limit) for name in data]
    calibration = sorted(path for path in photos.iterdir() if path.suffix in (".jpg", ".png"))[:20]
    rows = [["PyTorch", *(f"{miou(segmenter, processor, one):.4f}" for one in sets), "", ""]]
    with TemporaryDirectory() as scratch:
        for title, int8 in (
            ("ONNX, float32", None),
            ("ONNX, int8 dynamic", "dynamic"),
            ("ONNX, int8 static", "static"),
        ):
            folder = Path(scratch, int8 or "float32")
            export_onnx(segmenter, processor, folder, int8, calibration if int8 == "static" else ())
            compared = [Compared(folder, one.prompts) for one in sets]
            scores = [miou(segmenter, processor, one, source) for one, source in zip(sets, compared, strict=True)]
            agree = sum(one.equal for one in compared) / sum(one.total for one in compared)
            size = sum(path.stat().st_size for path in folder.iterdir())
            rows.append([title, *(f"{score:.4f}" for score in scores), f"{agree:.4%}", f"{size / 1e6:.1f}"])
    header = ("", *(Path(one.folder).name for one in sets), "places equal to PyTorch", "MB")
    Console(width=160).print(markdown_table(header, rows), markup=False)


def miou(model, processor, dataset, source="pixels") -> float:
    return evaluate_dataset(model, processor, dataset, source=source).compute()["mean_iou"]


if __name__ == "__main__":
    typer.run(main)
