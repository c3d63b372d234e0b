"""LoRA on the frozen CLIP's vision attention, by `peft`, trained by the segmentation loss beside PAT's own layers."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..modeling_pat import PatForSemanticSegmentation

# The projections that CAT-Seg tunes (arXiv 2303.11797, section 3.4): query and value.
TARGET_MODULES = r"pat\.vision_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
ADAPTER_FOLDER = "adapter"


def add_lora(model: PatForSemanticSegmentation, rank: int) -> None:
    """
    Put LoRA of a rank into every layer of CLIP's vision tower; what was trained before still is.

    Raises:
        ValueError: If `peft` is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise ValueError('LoRA needs the peft library: pip install "transformers_pat[lora]"') from None
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGET_MODULES))
    for parameter in own:  # peft froze all but its own
        parameter.requires_grad_(True)


def save_with_lora(model: PatForSemanticSegmentation, state_dict: dict[str, torch.Tensor], folder: str | Path) -> None:
    """
    Save a model with LoRA: PAT and the untouched CLIP in `folder`, LoRA in `folder/adapter`, in peft's format.

    `PatForSemanticSegmentation.from_pretrained(folder)` and `model.load_adapter(f"{folder}/adapter")` put them
    together again.

    Args:
        state_dict: The weights to save, `model`'s own or averaged ones.
    """
    without = PatForSemanticSegmentation(model.config)
    own = {name.replace(".base_layer.", "."): value for name, value in state_dict.items() if ".lora_" not in name}
    without.load_state_dict(own)
    without.save_pretrained(folder)
    # transformers' own method, which writes the adapter alone; ours would add PAT's code.
    PreTrainedModel.save_pretrained(model, Path(folder, ADAPTER_FOLDER), state_dict=state_dict)
