"""Runs document.py. Its parts are processes of their own, which can't import a module named __main__."""

from transformers_pat.cli.arguments import run_script

from .document import main

if __name__ == "__main__":
    run_script(main)
