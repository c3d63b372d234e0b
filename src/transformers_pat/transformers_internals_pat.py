"""Every place where PAT leans on how transformers works inside, each with the condition under which it can go."""

import difflib
import inspect
import logging
import threading
from collections.abc import Callable

from safetensors import SafetensorError
from transformers import logging as transformers_logging
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, TransformersKwargs


def without_custom_pipelines(config_dict: dict, config_class: type) -> dict:
    """
    Drop the pipeline code that a checkpoint names, unless the configuration class itself is remote code.

    `transformers.pipeline` prefers `config.custom_pipelines` to a registered task and then asks for
    `trust_remote_code`. The installed package registers the task, so neither is needed. Can go when `pipeline` looks
    for a registered task first.
    """
    if config_class.__module__.partition(".")[0] == TRANSFORMERS_DYNAMIC_MODULE_NAME:
        return config_dict
    return {key: value for key, value in config_dict.items() if key != "custom_pipelines"}


def allow_stock_pipeline(model_type: str, class_name: str) -> None:
    """
    Let the `image-segmentation` pipeline take a model class without logging an error.

    The pipeline reads this table of names, which `AutoModelForSemanticSegmentation.register` does not fill. Can go
    when it does.
    """
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[model_type] = class_name


def load_unreported(from_pretrained: Callable, name, *args, **kwargs) -> tuple:
    """
    Call a `from_pretrained` and return the model with what did not fit, which the caller reports.

    transformers logs a table of missing keys as "newly initialized", even those that PAT then reads from CLIP, and
    its error for a misshapen tensor names no tensor but refers to that table. So the table is held back, for this
    thread only, and shapes are compared by the caller. Can go when transformers lets a model say which keys it fills
    itself, and names the tensor in the error.

    Returns:
        The model and the loading info: `missing_keys`, `mismatched_keys`, `unexpected_keys`.

    Raises:
        ValueError: If a weights file cannot be read.
    """
    loader_logger, thread = transformers_logging.get_logger("transformers.modeling_utils"), threading.get_ident()

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.funcName != "log_state_dict_report" or record.thread != thread

    loader_logger.addFilter(is_wanted)
    try:
        return from_pretrained(name, *args, **{**kwargs, "ignore_mismatched_sizes": True, "output_loading_info": True})
    except SafetensorError as error:
        raise ValueError(f"{name}: a weights file is damaged: {' '.join(str(error).split())}") from None
    finally:
        loader_logger.removeFilter(is_wanted)


def check_forward_kwargs(forward: Callable, kwargs: dict) -> None:
    """
    Refuse keywords that neither a forward nor transformers' own callers know.

    A forward needs `**kwargs`, because transformers passes those of `TransformersKwargs` to any model, and so would
    ignore misspelt names. Can go when transformers checks the names itself.

    Raises:
        TypeError: Naming the closest argument.
    """
    unknown = [name for name in kwargs if name not in TransformersKwargs.__annotations__]
    if unknown:
        known = [name for name in inspect.signature(forward).parameters if name not in ("self", "kwargs")]
        closest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {closest[0]!r}?" if closest else f"it takes {', '.join(known)}."
        raise TypeError(f"forward got an unknown argument {unknown[0]!r}: {hint}")
