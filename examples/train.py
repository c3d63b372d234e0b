"""Train PAT: `transformers-pat train` as a script, for `accelerate launch examples/train.py ...`."""

from transformers_pat.cli.arguments import run_script
from transformers_pat.cli.train import main

if __name__ == "__main__":
    run_script(main)
