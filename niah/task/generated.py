"""Generated needle sets: any number of needles of one shape, from a seed. Keys are pairs of words, each used once."""

from collections.abc import Callable, Mapping
from itertools import product

from niah.errors import UsageError
from niah.task.seeded import Draw
from niah.trial import Needle

_FIRST = [
    "amber",
    "ancient",
    "autumn",
    "azure",
    "brazen",
    "bright",
    "bronze",
    "calm",
    "cedar",
    "cobalt",
    "copper",
    "coral",
    "crimson",
    "crystal",
    "dappled",
    "dawn",
    "distant",
    "drifting",
    "dusky",
    "early",
    "eastern",
    "ebony",
    "emerald",
    "evening",
    "fabled",
    "faded",
    "fallow",
    "flint",
    "frosted",
    "gentle",
    "gilded",
    "golden",
    "granite",
    "hidden",
    "hollow",
    "indigo",
    "inland",
    "iron",
    "ivory",
    "jade",
    "lone",
    "lunar",
    "maple",
    "marble",
    "meadow",
    "misty",
    "mossy",
    "northern",
    "oaken",
    "ochre",
    "opal",
    "painted",
    "pearl",
    "pewter",
    "placid",
    "quiet",
    "rapid",
    "russet",
    "saffron",
    "sandy",
    "scarlet",
    "secluded",
    "silent",
    "silver",
    "slate",
    "solemn",
    "southern",
    "spruce",
    "steady",
    "stone",
    "summer",
    "sunken",
    "swift",
    "tawny",
    "timber",
    "tranquil",
    "umber",
    "upland",
    "velvet",
    "verdant",
    "violet",
    "walnut",
    "western",
    "whispering",
    "willow",
    "winter",
    "woven",
    "yellow",
]
_SECOND = [
    "anchor",
    "arbor",
    "archive",
    "arrow",
    "badger",
    "barge",
    "basin",
    "beacon",
    "bell",
    "bridge",
    "brook",
    "canyon",
    "castle",
    "cavern",
    "citadel",
    "cloister",
    "comet",
    "compass",
    "condor",
    "cove",
    "crane",
    "creek",
    "dolphin",
    "dune",
    "eagle",
    "estuary",
    "falcon",
    "ferry",
    "fjord",
    "forge",
    "fountain",
    "garden",
    "garrison",
    "glacier",
    "grove",
    "gully",
    "harbor",
    "heron",
    "hollow",
    "island",
    "kestrel",
    "lagoon",
    "lantern",
    "ledge",
    "library",
    "lighthouse",
    "lynx",
    "magpie",
    "marsh",
    "mill",
    "monument",
    "moor",
    "mountain",
    "museum",
    "oasis",
    "orchard",
    "osprey",
    "otter",
    "outpost",
    "palace",
    "pasture",
    "pavilion",
    "peak",
    "pelican",
    "pillar",
    "plaza",
    "prairie",
    "quarry",
    "quay",
    "raven",
    "reef",
    "ridge",
    "river",
    "sanctuary",
    "schooner",
    "sparrow",
    "spring",
    "station",
    "summit",
    "swallow",
    "terrace",
    "theater",
    "thicket",
    "tower",
    "tunnel",
    "valley",
    "viaduct",
    "village",
    "vineyard",
    "warbler",
    "waterfall",
    "windmill",
]


def needles(kind: str, count: int, seed: int) -> tuple[Needle, ...]:
    """`count` needles of a kind, the same for the same seed."""
    keys = [f"{first}-{second}" for first, second in product(_FIRST, _SECOND)]
    if not 1 <= count <= len(keys):
        raise UsageError(f"needles {kind}:{count}: from 1 to {len(keys):,} can be generated")
    draw = Draw("needles", kind, seed)
    order = draw.permutation(len(keys))[:count]
    return tuple(_needle(kind, keys[number], KINDS[kind](draw), KINDS[kind], draw) for number in order)


def _needle(kind: str, key: str, value: str, make: Callable[[Draw], str], draw: Draw) -> Needle:
    noun = _NOUNS[kind]
    others = [f"The {noun} that was assigned to the {_other(key, draw)} is {make(draw)}." for _ in range(4)]
    return Needle(
        id=f"{kind}-{key}",
        text=f"The {noun} that was assigned to the {key} is {value}.",
        question=f"Which {noun} was assigned to the {key}?",
        answers=((value,),),
        distractors=tuple(others),
    )


def _other(key: str, draw: Draw) -> str:
    """A key that differs in its first or its second word: a near miss."""
    first, second = key.split("-")
    if draw.fraction() < 0.5:
        return f"{draw.pick([word for word in _FIRST if word != first])}-{second}"
    return f"{first}-{draw.pick([word for word in _SECOND if word != second])}"


def _words(draw: Draw) -> str:
    return " ".join(draw.pick(words) for words in (_FIRST, _SECOND, _FIRST, _SECOND))


def _number(draw: Draw) -> str:
    return str(draw.between(1_000_000, 9_999_999))


def _uuid(draw: Draw) -> str:
    digits = "".join(draw.pick("0123456789abcdef") for _ in range(32))
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


KINDS: Mapping[str, Callable[[Draw], str]] = {"words": _words, "numbers": _number, "uuids": _uuid}
_NOUNS = {"words": "four-word phrase", "numbers": "seven-digit number", "uuids": "identifier"}
