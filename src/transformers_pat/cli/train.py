"""`transformers-pat train`: train PAT on photos with masks, or its tokenizer on any photos."""

import sys

from ..training.config import TrainConfig
from .arguments import parse_arguments, require_accelerate
from .fine_tune import fine_tuning_flags

DESCRIPTION = """Train PAT on photos with masks, or its tokenizer on any photos.

Your own photos  transformers-pat train --data ../mine   (photos with masks, Pascal VOC, COCO; docs/fine_tuning.md)
On from pat-nano transformers-pat train --init pat-nano --train ../data/mine:train --output_dir runs/mine
CPU test run     transformers-pat train --config configs/nano_smoke.yaml --clip CLIP --train ../data/mine:train
1 GPU            accelerate launch -m transformers_pat.cli train --config configs/vitb16_coco_stuff.yaml
8 GPUs           accelerate launch --multi_gpu --num_processes 8 -m transformers_pat.cli train ... --batch_size 4
2 nodes of 8     on each, with --machine_rank 0 and 1:
                 accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank 0
                     --main_process_ip HOST --main_process_port 29500 -m transformers_pat.cli train ... --batch_size 2
2 CPU processes  torchrun --standalone --nproc_per_node 2 -m transformers_pat.cli train ...
FSDP, DeepSpeed  accelerate launch --config_file YOURS.yaml -m transformers_pat.cli train ...  (docs/training.md)
Validation       ... --validation ../data/mine:val
Tokenizer only   ... --objective tokenizer --train '{"photos": "../photos"}'
Continue         the same command with --resume

Every value of the config file is also a flag; flags win."""


def main(argv: list[str] | None = None) -> None:
    """Run the command with these arguments or the process's; `ValueError` or `OSError` on a user's mistake."""
    argv = fine_tuning_flags(sys.argv[1:] if argv is None else argv)
    config = parse_arguments(TrainConfig, DESCRIPTION, argv, prog="transformers-pat train")
    require_accelerate("train")
    from ..training.loop import train

    train(config)
