"""Labels and prompt templates: what the user writes, and the sentences the text tower reads."""

# The class of pixels that belong to no other class, in data sets and as a label that a pipeline adds.
BACKGROUND = "background"
LEARNED = "learned"  # the background policy that is part of the model

PROMPT_TEMPLATES = {
    "none": ("{}",),
    # CLIP's README
    "simple": ("a photo of a {}.",),
    # ViLD's set as used by zero-shot segmenters since (SimSeg, OVSeg)
    "vild": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    ),
    # CLIP's own ensemble for ImageNet
    "imagenet": (
        "a bad photo of a {}.",
        "a photo of many {}.",
        "a sculpture of a {}.",
        "a photo of the hard to see {}.",
        "a low resolution photo of the {}.",
        "a rendering of a {}.",
        "graffiti of a {}.",
        "a bad photo of the {}.",
        "a cropped photo of the {}.",
        "a tattoo of a {}.",
        "the embroidered {}.",
        "a photo of a hard to see {}.",
        "a bright photo of a {}.",
        "a photo of a clean {}.",
        "a photo of a dirty {}.",
        "a dark photo of the {}.",
        "a drawing of a {}.",
        "a photo of my {}.",
        "the plastic {}.",
        "a photo of the cool {}.",
        "a close-up photo of a {}.",
        "a black and white photo of the {}.",
        "a painting of the {}.",
        "a painting of a {}.",
        "a pixelated photo of the {}.",
        "a sculpture of the {}.",
        "a bright photo of the {}.",
        "a cropped photo of a {}.",
        "a plastic {}.",
        "a photo of the dirty {}.",
        "a jpeg corrupted photo of a {}.",
        "a blurry photo of the {}.",
        "a photo of the {}.",
        "a good photo of the {}.",
        "a rendering of the {}.",
        "a {} in a video game.",
        "a photo of one {}.",
        "a doodle of a {}.",
        "a close-up photo of the {}.",
        "a photo of a {}.",
        "the origami {}.",
        "the {} in a video game.",
        "a sketch of a {}.",
        "a doodle of the {}.",
        "a origami {}.",
        "a low resolution photo of a {}.",
        "the toy {}.",
        "a rendition of the {}.",
        "a photo of the clean {}.",
        "a photo of a large {}.",
        "a rendition of a {}.",
        "a photo of a nice {}.",
        "a photo of a weird {}.",
        "a blurry photo of a {}.",
        "a cartoon {}.",
        "art of a {}.",
        "a sketch of the {}.",
        "a embroidered {}.",
        "a pixelated photo of a {}.",
        "itap of the {}.",
        "a jpeg corrupted photo of the {}.",
        "a good photo of a {}.",
        "a plushie {}.",
        "a photo of the nice {}.",
        "a photo of the small {}.",
        "a photo of the weird {}.",
        "the cartoon {}.",
        "art of the {}.",
        "a drawing of the {}.",
        "a photo of the large {}.",
        "a black and white photo of a {}.",
        "the plushie {}.",
        "a dark photo of a {}.",
        "itap of a {}.",
        "graffiti of the {}.",
        "a toy {}.",
        "itap of my {}.",
        "a photo of a cool {}.",
        "a photo of a small {}.",
        "a tattoo of the {}.",
    ),
}


def split_candidate_labels(text: str) -> list[str]:
    """`"road, car"` to `["road", "car"]`: comma-separated labels, stripped, a trailing comma forgiven."""
    parts = [part.strip() for part in text.split(",")]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def split_synonyms(label: str) -> list[str]:
    """`"tree;bush"` to `["tree", "bush"]`. Raises `ValueError` when a synonym is empty."""
    words = [word.strip() for word in label.split(";")]
    if not all(words):
        raise ValueError(f"label {label!r} has an empty synonym: write words between the semicolons")
    return words


def label_names(labels: list[str]) -> list[str]:
    """
    Short names of labels: the first synonym, or the whole label where several labels share their first synonym.

    `["car;auto", "car;van", "tree;bush"]` gives `["car;auto", "car;van", "tree"]`, so labels that differ have names
    that differ.
    """
    short = [split_synonyms(label)[0] for label in labels]
    folded = [name.casefold() for name in short]
    return [
        name if folded.count(name.casefold()) == 1 else label.strip()
        for name, label in zip(short, labels, strict=True)
    ]


def check_labels(labels) -> list[str]:
    """
    The labels, stripped, in the order given.

    Raises `ValueError` for anything but a list or tuple, for an empty one, and for a label that is not a string, is
    empty, has an empty synonym, or repeats an earlier one (case ignored).
    """
    if not isinstance(labels, (list, tuple)):
        raise ValueError(f"labels must be a list of strings, got {type(labels).__name__}")
    if len(labels) == 0:
        raise ValueError("the list of labels is empty: give at least one label")
    checked, seen = [], set()
    for position, label in enumerate(labels):
        if not isinstance(label, str):
            raise ValueError(f"label {position} must be a string, got {type(label).__name__}")
        label = label.strip()
        if not label:
            raise ValueError(f"label {position} is empty: remove it or give it a name")
        split_synonyms(label)
        if label.casefold() in seen:
            raise ValueError(f"label {label!r} is given twice: labels must differ (case is ignored)")
        seen.add(label.casefold())
        checked.append(label)
    return checked


def check_background(background) -> str | float | list[str]:
    """`"learned"`, a number between 0 and 1 as a float, or checked words. Raises `ValueError` for anything else."""
    if isinstance(background, str) and background == LEARNED:
        return background
    if isinstance(background, (list, tuple)):
        return check_labels(background)
    if isinstance(background, bool) or not isinstance(background, (int, float)) or not 0 < background < 1:
        raise ValueError(
            f"background must be None, 'learned', a number between 0 and 1, or a list of words, got {background!r}"
        )
    return float(background)


def resolve_templates(prompt_templates: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """
    The templates behind a preset's name (`"none"`, `"simple"`, `"vild"`, `"imagenet"`), one template, or a list.

    Raises `ValueError` for an unknown name, an empty list, and a template without exactly one `{}`.
    """
    if isinstance(prompt_templates, str):
        if prompt_templates in PROMPT_TEMPLATES:
            return PROMPT_TEMPLATES[prompt_templates]
        if "{}" not in prompt_templates:
            raise ValueError(
                f"unknown prompt templates {prompt_templates!r}: use one of {', '.join(PROMPT_TEMPLATES)}, "
                "or your own with {} where the label goes"
            )
        prompt_templates = [prompt_templates]
    if not isinstance(prompt_templates, (list, tuple)) or len(prompt_templates) == 0:
        raise ValueError(f"prompt templates must be a preset's name or a list of strings, got {prompt_templates!r}")
    for template in prompt_templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(f"prompt template {template!r} must be a string that contains {{}} exactly once")
    return tuple(prompt_templates)


def build_prompts(labels: list[str], templates: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """
    Every prompt, and the index of the label it belongs to: label by label, synonym by synonym, template by template.

    So the prompts of one synonym are `len(templates)` neighbours, all synonyms having the same number.
    """
    prompts, owners = [], []
    for index, label in enumerate(labels):
        for word in split_synonyms(label):
            prompts += [template.replace("{}", word) for template in templates]
            owners += [index] * len(templates)
    return prompts, owners
