"""Find words in a photo with a checkpoint, and save the label map as a picture with a legend.

python examples/segment.py examples/photos/china.jpg sky building "tree;bush" water
"""

import sys

import torch
from PIL import Image

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.visualization import overlay


@torch.inference_mode()
def main(photo_path: str, *labels: str) -> None:
    model = PatForSemanticSegmentation.from_pretrained(PAT_NANO).eval()
    processor = PatProcessor.from_pretrained(PAT_NANO)
    photo = Image.open(photo_path)
    inputs = processor(images=[photo], text=list(labels), return_tensors="pt")
    outputs = model(**inputs)
    size = (photo.height, photo.width)
    (label_map,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
    overlay(photo, label_map, list(labels)).save("segmented.png")
    for index, label in enumerate(labels):
        print(f"{label}: {(label_map == index).float().mean():.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
