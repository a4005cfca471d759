"""Word lists and sentence frames of the synthetic families, and the wordings of the leaf prompts.

A label is a category of things; a line tells of one thing and never names its category, so the
label must be read from the meaning of the line. Names of needles are split: those of
``NEEDLE_*_TRAIN`` appear in training tasks, those of ``NEEDLE_*_TEST`` in all others.
"""

from __future__ import annotations

import random

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": tuple(
        "otter badger heron lizard trout falcon donkey beetle rabbit spider turtle salmon "
        "pigeon hamster walrus ferret moose goose camel shark zebra monkey parrot weasel panther "
        "dolphin lobster sparrow gecko mole".split()
    ),
    "food": tuple(
        "bread cheese soup pancake noodle omelet sausage pudding biscuit porridge salad dumpling "
        "butter honey yogurt muffin lasagna pretzel stew waffle sandwich risotto curry burrito "
        "custard sorbet meatball cracker gravy toast".split()
    ),
    "tool": tuple(
        "hammer chisel wrench pliers shovel screwdriver saw crowbar trowel sickle rake anvil "
        "clamp axe drill mallet file sander spanner pickaxe hoe level tweezers lathe jack "
        "wheelbarrow ladder vise awl stapler".split()
    ),
    "sport": tuple(
        "tennis hockey rugby judo fencing archery cricket golf rowing karate basketball badminton "
        "bowling polo sprinting volleyball handball skiing surfing boxing wrestling lacrosse "
        "snooker squash softball cycling triathlon curling diving sailing".split()
    ),
    "plant": tuple(
        "fern tulip cactus ivy moss orchid willow lavender maple daisy bamboo clover thistle "
        "juniper poppy birch sunflower nettle lily oak magnolia violet cedar begonia heather "
        "dandelion spruce lotus marigold reed".split()
    ),
    "garment": tuple(
        "scarf jacket mitten sweater trousers bonnet apron waistcoat sandal blouse hoodie kilt "
        "raincoat sock skirt tunic glove shawl overcoat pajamas beret slipper cardigan vest "
        "stocking kimono dungarees cloak tie sash".split()
    ),
    "vehicle": tuple(
        "bicycle tractor ferry tram lorry canoe helicopter scooter caravan minibus motorcycle "
        "wagon airship sledge taxi submarine bulldozer limousine kayak trolley ambulance sailboat "
        "locomotive hovercraft van carriage rickshaw glider barge moped".split()
    ),
    "instrument": tuple(
        "violin trumpet harp banjo cello oboe accordion flute piano tambourine clarinet ukulele "
        "trombone drum saxophone mandolin bagpipe xylophone harmonica guitar bassoon lute cymbal "
        "organ piccolo fiddle sitar tuba gong bugle".split()
    ),
}

FRAMES: tuple[str, ...] = (
    "{name} asked about the {thing} before the meeting ended",
    "the {thing} was the first thing that {name} noticed",
    "nobody told {name} where the {thing} had come from",
    "{name} kept a picture of a {thing} above the desk",
    "yesterday {name} wrote a long letter about the {thing}",
    "it took {name} a whole week to find the right {thing}",
    "there was only one {thing} left when {name} arrived",
    "{name} dreamt of a {thing} again last night",
    "we spent the evening talking about {name} and the {thing}",
    "the children wanted to know why {name} likes the {thing}",
    "in the end {name} chose the {thing} after all",
    "a note on the door said that the {thing} belongs to {name}",
    "{name} has never seen such an old {thing}",
    "the story that {name} told was mostly about a {thing}",
    "my neighbour {name} knows everything about the {thing}",
    "someone sent {name} a postcard with a {thing} on it",
    "for her birthday {name} wished for a {thing}",
    "the museum paid {name} for a drawing of the {thing}",
    "{name} could not remember what the {thing} looked like",
    "on the last page {name} had scribbled the word {thing}",
    "after lunch {name} began to explain the {thing}",
    "it was {name} who first mentioned the {thing}",
    "people often confuse {name} with the owner of the {thing}",
    "the radio played a song about {name} and a {thing}",
    "{name} promised to bring the {thing} on Sunday",
    "all that {name} needed now was a {thing}",
)
# Frames that the base never meets in its pretraining.
FRAMES_HELD_OUT: tuple[str, ...] = (
    "a stranger offered {name} a {thing} for almost nothing",
    "what {name} really missed that winter was the {thing}",
    "the whole village laughed when {name} pointed at the {thing}",
    "{name} lost the bet and had to draw a {thing}",
)

NAMES: tuple[str, ...] = tuple(
    "Mara Anton Priya Jonas Leila Oskar Wanda Hugo Nadia Felix Ingrid Tomas Yara Emil Sonja Pablo "
    "Greta Milan Amina Boris Clara Dario Elif Farid Hanna Ivan Jana Karim Lena Marco".split()
)

NAMES_HELD_OUT: tuple[str, ...] = tuple(
    "Viktor Salome Odile Henrik Zora Ruben Thea Casimir Noor Yusuf Birgit Quentin Alma Igor "
    "Freya Leopold Xenia Omar Dorit Walther".split()
)

NEEDLE_ADJECTIVES_TRAIN: tuple[str, ...] = tuple(
    "tawny brisk mellow gaunt sleek rustic vivid hollow amber frosty dapper nimble quaint ruddy "
    "silent tepid upbeat woven zesty ashen blunt cosmic dusty eager fluent gritty humble icy jolly "
    "keen lucid murky noble opaque plush rapid solemn tidal urban vast wary young absurd bitter "
    "crisp dense earthy feeble giddy hasty".split()
)
NEEDLE_NOUNS_TRAIN: tuple[str, ...] = tuple(
    "lantern pebble harbor canyon thimble beacon meadow anchor velvet compass drizzle ember "
    "glacier hammock island jigsaw kernel lagoon marble nutmeg orchard pillow quarry ribbon "
    "saddle timber umbrella valley walnut yonder zenith acorn bramble candle dagger engine fabric "
    "garden hinge ink jewel kettle ledger mirror needle oven palace quiver ripple".split()
)
NEEDLE_ADJECTIVES_TEST: tuple[str, ...] = tuple(
    "balmy chunky dizzy elated faded gentle hefty ironic jagged knotty lofty modest narrow ornate "
    "pale quirky rowdy shaggy thorny uneven verbal weary".split()
)
NEEDLE_NOUNS_TEST: tuple[str, ...] = tuple(
    "basket cellar domino fountain gazebo hatchet igloo jacuzzi knuckle lattice mitre napkin "
    "obelisk parsnip raft satchel trellis urn vault whistle yarn zipper".split()
)

LABEL_PROMPTS: tuple[str, ...] = (
    "Label each line as one of: {labels}. Answer with one label a line.",
    "For every line below write its label, one a line. The labels are: {labels}.",
    "Which of the labels {labels} fits each line? Give one label for each line.",
)
"""Wordings of the labelling leaf, filled with the labels joined by ", " and followed by a blank
line and the lines."""

MONTHS: tuple[str, ...] = tuple("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def nonce(rng: random.Random) -> str:
    """A made-up word of two or three syllables."""
    word = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3)))
    return word + rng.choice(("", "", "n", "r", "t", "l", "s"))


_HEADS = "bl br cl cr dr fl fr gl gr pl pr sk sl sm sn sp st sw tr tw".split()
_HEARTS = "ai ea ee ie oa oo ou ay".split()
_TAILS = "ck ft ld lk lp mp nd nk nt pt rd rf rk rm rp sh sk sp st x".split()


def nonce_held_out(rng: random.Random) -> str:
    """A made-up word of one or two closed syllables with clusters: none that ``nonce`` makes."""
    return "".join(
        rng.choice(_HEADS) + rng.choice(_HEARTS) + rng.choice(_TAILS)
        for _ in range(rng.randint(1, 2))
    )
