"""Pushes the embedded checkpoint to the Hub, with its card and its code: python tools/push_pat_nano.py REPO."""

import argparse

from huggingface_hub import HfApi

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", help="for instance ORG/pat-nano")
    parser.add_argument("--tag", help="tag to set on the Hub's repository")
    args = parser.parse_args()
    PatForSemanticSegmentation.from_pretrained(PAT_NANO).push_to_hub(args.repository)
    PatProcessor.from_pretrained(PAT_NANO).push_to_hub(args.repository)
    api = HfApi()
    api.upload_file(path_or_fileobj=f"{PAT_NANO}/README.md", path_in_repo="README.md", repo_id=args.repository)
    if args.tag:
        api.create_tag(args.repository, tag=args.tag)


if __name__ == "__main__":
    main()
