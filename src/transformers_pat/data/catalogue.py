"""
The benchmarks of open-vocabulary segmentation.

Labels are those of published evaluations, computed from the official download without their conversion on disk. The
comments name the script that each rule is from. `docs/benchmarks.md` lists the rules in one table.
"""

from dataclasses import replace
from pathlib import Path

from .benchmark import Benchmark, BenchmarkDataset, Download, read_ade20k_full, read_label_map

# MaskFormer's prepare_ade20k_sem_seg.py: id - 1, and 0 ("other") is ignored.
ADE20K_150 = Benchmark(
    name="ade20k_150",
    title="ADE20K-150",
    classes="ade20k_150",
    splits={"train": ("training", 20_210), "val": ("validation", 2_000)},
    photo="ADEChallengeData2016/images/{split}/{name}.jpg",
    mask="ADEChallengeData2016/annotations/{split}/{name}.png",
    unscored=(0,),
    downloads=(
        Download(
            "ADEChallengeData2016", "ADEChallengeData2016.zip", "http://sceneparsing.csail.mit.edu (scene parsing)"
        ),
    ),
)

# MaskFormer's prepare_ade20k_full_sem_seg.py: 847 of the full release's ids, and all others are ignored.
ADE20K_847 = Benchmark(
    name="ade20k_847",
    title="ADE20K-847",
    classes="ade20k_847",
    splits={"train": ("training", 25_574), "val": ("validation", 2_000)},
    photo="ADE20K_2021_17_01/images/ADE/{split}/{name}.jpg",
    mask="ADE20K_2021_17_01/images/ADE/{split}/{name}_seg.png",
    read_mask=read_ade20k_full,
    unscored=range(26 * 256),  # every id that two channels can hold
    ignore_index=65535,
    shortest_edge=512,
    downloads=(
        Download(
            "ADE20K_2021_17_01",
            "ADE20K_2021_17_01 (the full data set)",
            "https://groups.csail.mit.edu/vision/datasets/ADE20K/request_data/ (asks for an account and for consent "
            "to its terms)",
        ),
    ),
)

# SAN's prepare_pcontext_sem_seg_459cls.py: id - 1; ODISE's prepare_pascal_ctx_full_sem_seg.py: 0 is ignored.
PASCAL_CONTEXT_459 = Benchmark(
    name="pascal_context_459",
    title="PASCAL-Context-459",
    classes="pascal_context_459",
    splits={"train": ("train", 4_998), "val": ("val", 5_105)},
    split_list="VOCdevkit/VOC2010/ImageSets/Main/{split}.txt",
    photo="VOCdevkit/VOC2010/JPEGImages/{name}.jpg",
    mask="VOCdevkit/VOC2010/trainval/{name}.mat",
    read_mask=read_label_map,
    unscored=(0,),
    ignore_index=65535,
    downloads=(
        Download(
            "VOCdevkit/VOC2010/JPEGImages",
            "VOCtrainval_03-May-2010.tar",
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
        ),
        Download(
            "VOCdevkit/VOC2010/trainval",
            "trainval.tar.gz",
            "https://roozbehm.info/pascal-context/ (unpack it in VOCdevkit/VOC2010)",
        ),
    ),
)

# SAN's prepare_pcontext_sem_seg_59cls.py: 59 of the 459 ids in their order. It reads trainval_merged.json; here they
# come from the masks of the 459 classes, and all other ids are ignored.
PASCAL_CONTEXT_59 = replace(
    PASCAL_CONTEXT_459,
    name="pascal_context_59",
    title="PASCAL-Context-59",
    classes="pascal_context_59",
    unscored=range(460),
    ignore_index=255,
)

# SAN's prepare_voc_sem_seg.py: id - 1; the background (0) and the border (255) are ignored.
PASCAL_VOC_20 = Benchmark(
    name="pascal_voc_20",
    title="PAS-20",
    classes="pascal_voc_20",
    splits={"train": ("train", 1_464), "val": ("val", 1_449)},
    split_list="VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt",
    photo="VOCdevkit/VOC2012/JPEGImages/{name}.jpg",
    mask="VOCdevkit/VOC2012/SegmentationClass/{name}.png",
    unscored=(0,),
    downloads=(
        Download(
            "VOCdevkit/VOC2012", "VOCtrainval_11-May-2012.tar", "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
        ),
    ),
)

# CAT-Seg's prepare_voc.py and voc20b.json: the background is class 20; 39 more prompts stand for it.
PASCAL_VOC_20B = replace(
    PASCAL_VOC_20,
    name="pascal_voc_20b",
    title="PAS-20b",
    unscored=(),
    background_id=0,
    prompts="pascal_voc_20b_prompts",
)

# mmsegmentation's coco_stuff164k.py: a mask holds the category id - 1, with gaps, and 255 is ignored.
COCO_STUFF_171 = Benchmark(
    name="coco_stuff_171",
    title="COCO-Stuff-171",
    classes="coco_stuff_171",
    splits={"train": ("train2017", 118_287), "val": ("val2017", 5_000)},
    photo="images/{split}/{name}.jpg",
    mask="annotations/{split}/{name}.png",
    downloads=(
        Download("images/{split}", "{split}.zip", "https://cocodataset.org (unpack it in images)"),
        Download(
            "annotations/{split}",
            "stuffthingmaps_trainval2017.zip",
            "https://github.com/nightrome/cocostuff (unpack it in annotations)",
        ),
    ),
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        ADE20K_150,
        ADE20K_847,
        PASCAL_CONTEXT_59,
        PASCAL_CONTEXT_459,
        PASCAL_VOC_20,
        PASCAL_VOC_20B,
        COCO_STUFF_171,
    )
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; `ValueError` if there is none."""
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def open_benchmark(name: str, root: str | Path, split: str = "val", strict: bool = True) -> BenchmarkDataset:
    """
    Open a split of a benchmark.

    Args:
        name: One of [`BENCHMARKS`].
        root: Folder that its downloads were unpacked in.
        split: "train" or "val".
        strict: Whether a missing photo or mask is an error; otherwise the sample is left out and described in
            `missing`.

    Raises:
        ValueError: If the name or the split is unknown, or files are missing.
    """
    benchmark = find_benchmark(name)
    benchmark.folder(split)  # for an unknown split, checking the download would not help
    try:
        return BenchmarkDataset(benchmark, root, split, strict)
    except ValueError as error:
        check = f"transformers-pat check-data {name} {root} --split {split}"
        raise ValueError(f"{error}; see {check}") from None
