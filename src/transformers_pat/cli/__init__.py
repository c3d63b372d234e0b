"""The command line, `transformers-pat`; also `python -m transformers_pat.cli`."""
