"""Training: options, the loop, batches and vocabularies, augmentation, checkpoints, report, LoRA."""
