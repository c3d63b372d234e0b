"""PAT for transformers: feature pyramid tokenization and open-vocabulary semantic segmentation on a frozen CLIP."""
