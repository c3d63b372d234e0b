"""The streaming metric against `evaluate`'s definition: the same figures, faster, in memory that does not grow."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks.metric_speed import draw_maps, published_mean_iou, run_published, run_streaming
from transformers_pat.evaluation.hf_metric import StreamingMeanIoU
from transformers_pat.evaluation.metrics import BLOCK_PIXELS, SegmentationMetric

# Peaks after 10 maps, after 1000, and after as many that are kept; in a process of its own because a peak never falls.
# Not the peak that the system reports: a process inherits that of the one that started it.
MEASURE_MEMORY = """
import tempfile, numpy as np, psutil
from transformers_pat.evaluation.hf_metric import StreamingMeanIoU
metric = StreamingMeanIoU(150, cache_dir=tempfile.mkdtemp())
prediction, reference = np.random.default_rng(0).integers(0, 150, (2, 128, 256))
kept = []
for count in range(1, 2001):
    metric.add(prediction=prediction, reference=reference)
    if count > 1000:
        kept.append(reference.copy())
    if count in (10, 1000, 2000):
        print(psutil.Process().memory_info().rss / 2**20)
"""


def draw_case(seed):
    """Maps of different sizes, some classes never true or never predicted, much to ignore."""
    random = np.random.default_rng(seed)
    num_labels = (3, 19, 150, 179, 180, 250, 847)[seed % 7]
    ignore_index = 65535 if num_labels > 255 or seed % 2 else 255
    dtype = (
        (np.uint8, np.int64, np.uint16, np.int32)[seed % 4] if ignore_index == 255 else (np.uint16, np.int64)[seed % 2]
    )
    true, predicted = (random.permutation(num_labels)[: max(1, num_labels * 2 // 3)] for _ in range(2))
    predictions, references = [], []
    for _ in range(3):
        shape = random.integers(1, 60, 2)
        reference = random.choice(true, shape)
        prediction = np.where(random.random(shape) < 0.5, reference, random.choice(predicted, shape))
        ignored = random.random(shape) < 0.3
        # Where nothing is known, nothing that is predicted may matter.
        references.append(np.where(ignored, ignore_index, reference).astype(dtype))
        predictions.append(np.where(ignored & (random.random(shape) < 0.5), ignore_index, prediction).astype(dtype))
    return predictions, references, num_labels, ignore_index


@pytest.mark.parametrize("seed", range(50))
def test_figures_are_those_of_evaluate(seed, tmp_path):
    predictions, references, num_labels, ignore_index = draw_case(seed)
    expected = published_mean_iou(predictions, references, num_labels, ignore_index)
    metric = StreamingMeanIoU(num_labels, ignore_index, cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    scores = metric.compute(predictions=predictions[2:], references=references[2:])
    assert scores.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(scores[key], expected[key], rtol=1e-12)
    # The other convention: the same without the classes that are never true.
    plain = SegmentationMetric(num_labels, ignore_index)
    for prediction, reference in zip(predictions, references, strict=True):
        plain.update(torch.from_numpy(prediction), torch.from_numpy(reference))
    present = expected["per_category_iou"][~np.isnan(expected["per_category_accuracy"])]
    assert plain.compute()["mean_iou"] == pytest.approx(present.mean())


def test_a_class_to_ignore_counts_only_as_false_alarm():
    metric = SegmentationMetric(3, ignore_index=0)
    metric.update(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2]))
    assert metric.confusion.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_compute_starts_again(tmp_path):
    metric = StreamingMeanIoU(2, cache_dir=str(tmp_path))
    assert metric.compute(predictions=[[[0, 1]]], references=[[[1, 0]]])["overall_accuracy"] == 0
    assert metric.compute(predictions=[[[0, 1]]], references=[[[0, 1]]])["overall_accuracy"] == 1


def test_frequency_weighted_iou_and_a_choice_of_classes():
    metric = SegmentationMetric(3)
    metric.confusion = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    scores = metric.compute()
    assert scores["frequency_weighted_iou"] == pytest.approx(8 / 12 * 6 / 9 + 4 / 12 * 3 / 6)
    assert scores["pixel_accuracy"] == pytest.approx(9 / 12)
    chosen = metric.compute([1, 2])
    assert chosen["mean_iou"] == pytest.approx(3 / 6) and chosen["pixel_accuracy"] == pytest.approx(3 / 4)
    assert np.isnan(metric.compute([])["mean_iou"])


def test_the_two_conventions_explain_sans_two_figures():
    # SAN on PASCAL-Context-459: 16.7 in its log, 12.6 in its paper. 114 of the classes are in no mask of the split.
    present, absent = 345, 114
    confusion = torch.zeros(present + absent, present + absent, dtype=torch.int64)
    pixels, iou = 100_000, 0.167
    for label in range(present):
        wrong = round(pixels * (1 - iou))
        confusion[label, label] = pixels - wrong
        confusion[label, present + label % absent] += wrong  # all false alarms are absent classes
    metric = SegmentationMetric(present + absent)
    metric.confusion = confusion
    scores = metric.compute()
    assert scores["mean_iou"] == pytest.approx(0.167, abs=0.0005)
    assert scores["mean_iou_with_absent"] == pytest.approx(0.126, abs=0.0005)


def test_merging_is_counting_together():
    maps = torch.randint(0, 5, (2, 4, 9), generator=torch.Generator().manual_seed(0))
    together, first, second = (SegmentationMetric(5) for _ in range(3))
    together.update(*maps)
    first.update(*maps[:, :2])
    second.update(*maps[:, 2:])
    first.merge(second)
    assert torch.equal(first.confusion, together.confusion) and first.confusion.sum() == 36


@pytest.mark.parametrize(
    ("prediction", "labels", "message"),
    [
        ([[0, 1]], [[0], [1]], "prediction is"),
        ([0, 1], [0, 5], "labels hold other ids"),
        ([0, 1], [255, 254], "labels hold other ids"),
        ([0, 2], [0, 1], "prediction holds other ids"),
        ([0, -1], [0, 1], "hold id -1; ids start at 0"),
        ([0, 1], [-7, 1], "hold id -7; ids start at 0"),
        ([0, 1], [0, 2**32], "labels hold other ids than 0 to 1 and 255"),
        ([0, 2**32 + 1], [0, 1], "prediction holds other ids than 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(prediction, labels, message):
    metric = SegmentationMetric(2)
    with pytest.raises(ValueError, match=message):
        metric.update(torch.tensor(prediction), torch.tensor(labels))
    assert not metric.confusion.any()


def test_a_negative_id_far_from_the_end_is_refused():
    labels = torch.zeros(3 * BLOCK_PIXELS, dtype=torch.int64)
    labels[0] = -1
    with pytest.raises(ValueError, match="hold id -1"):
        SegmentationMetric(2).update(torch.zeros_like(labels), labels)


def test_by_default_255_is_not_counted_and_pixels_are_those_that_are():
    metric = SegmentationMetric(3)
    metric.update(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 255, 1]))
    assert metric.compute()["per_class_pixels"] == [1, 2, 0]


def test_twenty_times_as_fast_as_evaluate():
    torch.set_num_threads(1)
    predictions, references = draw_maps(3, 150, piece=1, dtype="uint8")
    seconds = {}
    for run in (run_published, run_streaming):
        times = []
        for _ in range(3):
            start = time.process_time()
            score = run(predictions, references, 150)
            times.append(time.process_time() - start)
        seconds[run] = min(times), score
    assert seconds[run_published][1] == pytest.approx(seconds[run_streaming][1])
    assert seconds[run_published][0] > 20 * seconds[run_streaming][0]


def test_memory_does_not_grow_with_the_number_of_maps():
    done = subprocess.run([sys.executable, "-c", MEASURE_MEMORY], capture_output=True, text=True, check=True)
    after_10, after_1000, after_keeping = map(float, done.stdout.split())
    assert after_1000 - after_10 < 10
    assert after_keeping - after_1000 > 100  # so growth would have shown


def test_the_first_id_after_the_classes_may_be_the_one_to_ignore():
    metric = SegmentationMetric(2, ignore_index=2)
    metric.update(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1]))
    assert metric.confusion.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="labels hold other ids than 0 to 1 and 2"):
        metric.update(torch.tensor([0, 1]), torch.tensor([2, 3]))
