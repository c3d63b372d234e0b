import re

import pytest
import yaml

from transformers_pat import PatForSemanticSegmentation, PatModel
from transformers_pat.hub_pat import render_card

from ..support.tiny import save_tiny_checkpoint


@pytest.mark.parametrize("model_class", [PatModel, PatForSemanticSegmentation])
def test_card_is_filled_and_true(tmp_path, model_class):
    save_tiny_checkpoint(tmp_path)
    model = model_class.from_pretrained(tmp_path)
    card = render_card(model, "org/pat-tiny", clip_saved=True)
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers" and header["pipeline_tag"] == "image-segmentation"
    assert "$" not in card
    assert f"# org/pat-tiny\n\nA `{model_class.__name__}`" in card
    assert f"{model.num_trainable_parameters / 1e6:.2f} million" in card
    assert re.findall(r"^\| [012] \| (\S+) \| (\d+) \|", card, flags=re.MULTILINE) == [
        ("2", "16"),
        ("1", "16"),
        ("0.5", "16"),
    ]
    for block in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL):
        compile(block, "model_card.md", "exec")
