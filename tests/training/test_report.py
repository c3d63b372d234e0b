"""What a run logs."""

import torch
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from transformers_pat.training import report as reports
from transformers_pat.training.report import TrainingReport


class Recorder:
    """Stands in for an accelerator: one process, and what was logged."""

    def __init__(self):
        self.logged = {}

    def reduce(self, tensor, how):
        return tensor

    def log(self, values, step):
        self.logged[step] = values


def test_speed_counts_the_steps_since_the_last_line_or_the_resumed_checkpoint(monkeypatch):
    now = 100.0
    monkeypatch.setattr(reports.time, "perf_counter", lambda: now)
    recorder = Recorder()
    report = TrainingReport(recorder, tqdm(total=30, initial=7, disable=True), every=10, images_per_step=4)
    outputs = ModelOutput(loss=torch.ones(()), codebook_usage=torch.ones(3), codebook_perplexity=torch.ones(3))
    for step in range(8, 21):
        now += 1
        report.add(outputs)
        report.step(step, 0.1)
    assert {step: values["images_per_second"] for step, values in recorder.logged.items()} == {10: 4, 20: 4}
