"""`python -m transformers_pat.cli`."""

from .app import app

if __name__ == "__main__":  # not in the processes that a DataLoader spawns
    app(prog_name="transformers-pat")
