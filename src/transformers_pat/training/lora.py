"""LoRA on the frozen CLIP's vision attention, by `peft`, trained by the segmentation loss beside PAT's own layers.

Called directly, because transformers 5.24's integration needs a newer peft than the newest release.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from ..modeling_pat import PatForSemanticSegmentation

# The projections that CAT-Seg tunes (arXiv 2303.11797, section 3.4): query and value.
TARGET_MODULES = r"pat\.vision_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
ADAPTER_FOLDER = "adapter"


def add_lora(model: PatForSemanticSegmentation, rank: int) -> None:
    """
    Add LoRA of a rank to every layer of CLIP's vision tower; what is trained without it still is.

    Raises:
        ValueError: If `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError('LoRA needs the peft library: pip install "transformers_pat[lora]"') from None
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGET_MODULES), model)
    for parameter in own:  # peft froze all but its own
        parameter.requires_grad_(True)


def save_with_lora(model: PatForSemanticSegmentation, state_dict: dict[str, torch.Tensor], folder: str | Path) -> None:
    """
    Save a model with LoRA: PAT and the untouched CLIP in `folder`, LoRA in `folder/adapter`, in peft's format.

    `peft.PeftModel.from_pretrained(PatForSemanticSegmentation.from_pretrained(folder), f"{folder}/adapter")` combines
    them again.

    Args:
        model: With LoRA from [`add_lora`].
        state_dict: The weights to save, `model`'s own or averaged ones.
        folder: Where to save.
    """
    from peft import get_peft_model_state_dict

    without = PatForSemanticSegmentation(model.config)
    own = {name.replace(".base_layer.", "."): value for name, value in state_dict.items() if ".lora_" not in name}
    without.load_state_dict(own)
    without.save_pretrained(folder)
    adapter = Path(folder, ADAPTER_FOLDER)
    model.peft_config["default"].save_pretrained(adapter)
    lora = get_peft_model_state_dict(model, state_dict)
    lora = {f"base_model.model.{name}": value.contiguous() for name, value in lora.items()}
    save_file(lora, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
