"""torchrun tests/support/save_often.py FOLDER COUNT: saves checkpoints of 4 MB one after the other."""

import sys

import torch
from accelerate import Accelerator

from transformers_pat.training.checkpoints import save_checkpoint

if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(torch.nn.Linear(1024, 1024))
    for step in range(1, int(sys.argv[2]) + 1):
        save_checkpoint(accelerator, sys.argv[1], step, {})
    accelerator.end_training()
