"""Evaluate a checkpoint on photos with masks: `transformers-pat evaluate` as a script, for torchrun."""

from transformers_pat.cli.arguments import run_script
from transformers_pat.cli.evaluate import main

if __name__ == "__main__":
    run_script(main)
