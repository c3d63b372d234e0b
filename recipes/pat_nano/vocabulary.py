"""Other words for the class names, used as label texts in training.

`tests/synonyms.json` holds words for the same classes that training never sees; `check_held_out` keeps it so.
"""

from __future__ import annotations

import json
from pathlib import Path

SYNONYMS: dict[str, list[str]] = {
    "sky": ["blue sky", "cloudy sky"],
    "building": ["house", "office building", "apartment building"],
    "pole": ["column pole", "utility pole", "post"],
    "road": ["roadway", "asphalt road", "highway"],
    "pavement": ["footpath", "paved walkway", "footway"],
    "tree": ["trees", "leafy tree", "tree with leaves"],
    "sign symbol": ["road sign", "street sign"],
    "fence": ["fencing", "wooden fence"],
    "car": ["motorcar", "sedan", "parked car"],
    "pedestrian": ["person walking", "walking people", "people on foot"],
    "bicyclist": ["person riding a bicycle", "bike rider"],
    "grass": ["grassland", "green grass", "meadow"],
    "cow": ["cattle", "dairy cow"],
    "horse": ["pony", "stallion"],
    "sheep": ["ewe", "flock of sheep"],
    "mountain": ["mountains", "rocky mountain"],
    "aeroplane": ["airplane", "plane", "jet plane"],
    "airplane": ["aeroplane", "plane", "jet plane"],
    "water": ["sea water", "river"],
    "face": ["human face", "person's face"],
    "bicycle": ["bike", "parked bicycle"],
    "flower": ["flowers", "flower in bloom"],
    "sign": ["road sign", "notice board"],
    "bird": ["wild bird", "birds"],
    "book": ["books", "open book"],
    "chair": ["wooden chair", "seat"],
    "cat": ["kitten", "house cat"],
    "dog": ["puppy", "pet dog"],
    "body": ["human body", "person's body"],
    "boat": ["ship", "rowing boat"],
    "bottle": ["glass bottle", "plastic bottle"],
    "bus": ["city bus", "double-decker bus"],
    "diningtable": ["dining table", "table"],
    "dining table": ["diningtable", "table"],
    "motorbike": ["motorcycle", "motor bike"],
    "motorcycle": ["motorbike", "motor bike"],
    "person": ["people", "man", "woman"],
    "pottedplant": ["potted plant", "plant in a pot"],
    "potted plant": ["pottedplant", "plant in a pot"],
    "sofa": ["couch", "sofa seat"],
    "couch": ["sofa", "sofa seat"],
    "train": ["railway train", "passenger train"],
    "tvmonitor": ["tv monitor", "television", "computer monitor"],
    "tv": ["tvmonitor", "television", "tv monitor"],
    "vegetation": ["plants", "bushes", "greenery"],
    "window": ["windows", "window pane"],
    "door": ["doorway", "front door"],
    "cell phone": ["mobile phone"],
    "refrigerator": ["fridge"],
    "donut": ["doughnut"],
    "traffic light": ["stop light"],
    "truck": ["lorry"],
    "pants": ["trousers"],
    "sneakers": ["running shoes"],
    "jumper": ["pullover"],
    "hat": ["cap"],
    "skin": ["bare skin"],
}
HELD_OUT = Path(__file__).resolve().parents[2] / "tests" / "synonyms.json"


def texts_of(name: str) -> list[str]:
    """The class name and its training synonyms."""
    return [name, *SYNONYMS.get(name, [])]


def check_held_out(names: list[str]) -> None:
    """`ValueError` when a held-out synonym is a label text of training."""
    training = {text for name in names for text in texts_of(name)}
    for words in json.loads(HELD_OUT.read_text()).values():
        leaked = sorted(word for name, word in words.items() if word != name and word in training)
        if leaked:
            raise ValueError(f"held-out synonyms used in training: {leaked}")
