"""Check the download of a benchmark: `transformers-pat check-data` as a script."""

from transformers_pat.cli.check_data import main

if __name__ == "__main__":
    main()
