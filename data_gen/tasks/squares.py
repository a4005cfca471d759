"""Label sets whose labels no word gives away: Latin squares over two things that a line tells.

A line tells of two latents in two clauses, each value by a word; its label is the square's cell.
Both being drawn uniformly, every word, and every n-gram of up to five words, stands beside each
label equally often: only who reads both clauses knows the label. Values and their words are closed
lists (``SETS``); the clauses come in frames, the last two of each list held out of all training.

    compass = SETS["compass"]
    compass.line(rng, 1, 2, "Mara", held_out=False)  # "Mara was walking east and soon went back"
    compass.label(1, 2)  # "west"
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

Words = tuple[tuple[str, ...], ...]  # the words that may tell each value
JOINTS: tuple[str, ...] = ("{}, {}", "{} and {}", "{}; {}", "{}, and {}", "{} but {}")
# Between clauses whose values would stand so close that five words hold both.
LONG_JOINTS: tuple[str, ...] = (
    "{}, as the notes of that day say, {}", "{}; the rest is soon told by us: {}",
    "{} and, if we can trust the list, {}", "{} but, so they said on the way, {}",
    "{}, which is only half of the story, {}", "{}; it is well known in town that {}",
)  # fmt: skip
HELD_OUT_FRAMES = 2  # at the end of each list of frames and of the long joints
FAR = 4  # words between the two values, at least


@dataclass(frozen=True)
class LabelSet:
    """K labels; for each latent K values with their words, and frames with ``{name}``, ``{it}``."""

    labels: tuple[str, ...]
    first: Words
    second: Words
    first_frames: tuple[str, ...]
    second_frames: tuple[str, ...]
    square: tuple[tuple[int, ...], ...]  # index of the label, by values of the first and second

    def label(self, first: int, second: int) -> str:
        """The label of a line that tells these values."""
        return self.labels[self.square[first][second]]

    def line(
        self,
        rng: random.Random,
        first: int,
        second: int,
        name: str,
        *,
        held_out: bool,
    ) -> str:
        """One line that tells both values."""
        one, two = (
            _frame(rng, self.first_frames, held_out),
            _frame(rng, self.second_frames, held_out),
        )
        between = f"{one.split('{it}')[1]} {two.split('{it}')[0]}"
        near = len(between.replace("{name}", name).split()) < FAR
        joint = _frame(rng, LONG_JOINTS, held_out) if near else rng.choice(JOINTS)
        return joint.format(
            one.format(name=name, it=rng.choice(self.first[first])),
            two.format(it=rng.choice(self.second[second])),
        )


def _frame(rng: random.Random, frames: tuple[str, ...], held_out: bool) -> str:
    return rng.choice(frames[-HELD_OUT_FRAMES:] if held_out else frames[:-HELD_OUT_FRAMES])


def _cyclic(count: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple((a + b) % count for b in range(count)) for a in range(count))


def _words(text: str) -> Words:
    return tuple(tuple(value.split("/")) for value in text.split())


def _frames(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


SETS: Mapping[str, LabelSet] = {
    "stance": LabelSet(  # a vote that is kept or taken back
        ("support", "oppose"),
        _words("yes/aye/agreed no/never/refused"),
        _words("kept/confirmed/repeated reversed/revoked/withdrawn"),
        _frames("""
            {name} answered {it} in the hall
            at the vote {name} said {it}
            the first word of {name} was {it}
            {name} wrote {it} on the card
            in the first round we heard {it} from {name}
            asked about the plan {name} noted {it}
            on the form {name} marked {it}
        """),
        _frames("""
            later this was {it}
            by evening it had been {it}
            after a week the answer was {it}
            in the end that was {it} in public
            on the next day the vote was {it}
            before the close all of it was {it}
        """),
        _cyclic(2),
    ),
    "lamp": LabelSet(  # a lamp whose switch is pressed
        ("on", "off"),
        _words("lit/bright/glowing dark/dim/unlit"),
        _words("twice/never once/thrice"),
        _frames("""
            {name} found the lamp {it}
            the lamp of {name} was {it} at first
            when {name} came in the lamp stood {it}
            {name} had left the lamp {it}
            all morning the lamp near {name} was {it}
            at the start {name} saw a {it} lamp
            {name} remembers that the lamp looked {it}
        """),
        _frames("""
            the switch was pressed {it}
            somebody pressed the switch {it}
            then a hand moved the switch {it}
            after that the switch went {it}
            a child played with the switch {it}
            the button clicked {it} before noon
        """),
        ((0, 1), (1, 0)),
    ),
    "side": LabelSet(  # a coin that is turned over
        ("heads", "tails"),
        _words("face/king/portrait number/eagle/shield"),
        _words("left/untouched flipped/turned"),
        _frames("""
            {name} threw the coin and the {it} came up
            the coin of {name} showed the {it}
            first {name} saw the {it} on the coin
            with the {it} up {name} put the coin down
            the {it} was what {name} saw on the coin
            on the table {name} looked at the {it} of the coin
            the coin landed for {name} with the {it} up
        """),
        _frames("""
            then it was {it}
            a friend saw it {it} later
            for the rest of the day it was {it}
            by the judge it was {it}
            when nobody looked it got {it}
            at last the coin was {it} again
        """),
        _cyclic(2),
    ),
    "duel": LabelSet(  # rock, paper, scissors, for the one who is named
        ("draw", "loss", "win"),
        _words("rock/stone paper/sheet scissors/shears"),
        _words("rock/stone paper/sheet scissors/shears"),
        _frames("""
            {name} showed {it}
            in this game {name} chose {it}
            the hand of {name} made {it}
            {name} went with {it}
            this time {name} trusted in {it}
            once more {name} played {it}
            from {name} came {it}
        """),
        _frames("""
            the other side had {it}
            the rival came up with {it}
            against that stood {it}
            the other hand made {it}
            on the far side of the table was {it}
            the guest answered with {it}
        """),
        ((0, 1, 2), (2, 0, 1), (1, 2, 0)),
    ),
    "light": LabelSet(  # a traffic light that changes
        ("red", "amber", "green"),
        _words("red/crimson amber/orange green/emerald"),
        _words("zero/thrice once/single twice/double"),
        _frames("""
            {name} stopped at the signal and saw {it}
            the signal in front of {name} was {it}
            on the way home {name} met a signal in {it}
            for {name} the signal began with {it}
            {name} reached the signal while it showed {it}
            the signal had turned {it} as {name} arrived
            from the bus {name} saw {it} on the signal
        """),
        _frames("""
            it changed {it} from there
            its changes until noon were {it}
            the count of changes was {it}
            then the colour moved on {it}
            it went to the next colour {it}
            the next changes came {it}
        """),
        _cyclic(3),
    ),
    "shift": LabelSet(  # a turn of work that is moved
        ("early", "late", "night"),
        _words("dawn/morning noon/midday dusk/evening"),
        _words("same/unmoved next/following last/previous"),
        _frames("""
            the plan had {name} working at {it}
            {name} was to begin at {it}
            the list said {it} for {name}
            usually {name} starts at {it}
            for this week {name} asked for {it}
            the boss wrote {it} beside {name}
            in May {name} had signed up for {it}
        """),
        _frames("""
            the office put it on the {it} turn
            it became the {it} turn of that day
            after a call it was given the {it} turn
            the final table has the {it} turn
            in truth it was the {it} turn
            the paper on the wall says the {it} turn
        """),
        ((0, 1, 2), (1, 2, 0), (2, 0, 1)),
    ),
    "compass": LabelSet(  # a heading and a turn
        ("north", "east", "south", "west"),
        _words("north/upward east/sunrise south/downward west/sunset"),
        _words("straight/ahead right/clockwise back/around left/anticlockwise"),
        _frames("""
            {name} was walking {it}
            the path took {name} {it}
            {name} left the house facing {it}
            the first hour led {name} {it}
            with the wind {name} sailed {it}
            {name} set out {it} with a dog
            all day {name} had been riding {it}
        """),
        _frames("""
            at the mill the way went {it}
            from the bridge on it was {it}
            a sign then pointed {it}
            behind the church the road ran {it}
            after the gate the steps went {it}
            at the well everybody turned {it}
        """),
        _cyclic(4),
    ),
    "season": LabelSet(  # a season and how many later
        ("spring", "summer", "autumn", "winter"),
        _words("spring/blossom summer/heatwave autumn/harvest winter/snowfall"),
        _words("zero/four one/five two/six three/seven"),
        _frames("""
            {name} moved here in {it}
            it was {it} when {name} began
            the {it} brought {name} to town
            {name} met the guests in {it}
            during {it} the house was sold to {name}
            the work of {name} started with {it}
            a letter from {name} came in {it}
        """),
        _frames("""
            it was finished {it} seasons later
            the end came after {it} seasons
            it took {it} seasons from there
            {it} seasons went by until the end
            the wait was of {it} seasons
            it was over when {it} seasons had passed
        """),
        _cyclic(4),
    ),
    "gate": LabelSet(  # two gates, of which some are open and some are flipped
        ("neither", "inner", "outer", "all"),
        _words("neither/none inner/inside outer/outside both/all"),
        _words("neither/none inner/inside outer/outside both/all"),
        _frames("""
            {name} had opened {it} of the gates
            open for {name} was {it}
            the gates stood open for {name}: {it}
            {name} saw that {it} was open
            in the morning {name} unlocked {it}
            as {name} came the open gates were {it}
            of the gates {name} left open {it}
        """),
        _frames("""
            the guard flipped {it}
            a storm then flipped {it}
            what was flipped later is {it}
            at night somebody flipped {it}
            flipped before the count was {it}
            the next hand flipped {it}
        """),
        ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)),
    ),
    "chair": LabelSet(  # a cup that goes round five chairs
        ("birch", "cedar", "maple", "oak", "pine"),
        _words("birch cedar maple oak pine"),
        _words("zero/five one/six two/seven three/eight four/nine"),
        _frames("""
            {name} got the cup on the {it} chair
            the cup of {name} began at the {it} chair
            on the {it} chair {name} filled the cup
            {name} gave the cup to the {it} chair
            from the {it} chair {name} sent the cup off
            the cup stood near {name} by the {it} chair
            {name} first put the cup on the {it} chair
        """),
        _frames("""
            it was passed {it} chairs on
            it went {it} chairs further
            then it moved on by {it} chairs
            the next hands took it {it} chairs along
            the cup wandered {it} chairs ahead
            it came {it} chairs forward
        """),
        _cyclic(5),
    ),
    "clock": LabelSet(  # every second hour of a dial, and how many hours later
        ("twelve", "two", "four", "six", "eight", "ten"),
        _words("twelve two four six eight ten"),
        _words("zero/twelve two/fourteen four/sixteen six/eighteen eight/twenty ten"),
        _frames("""
            the clock of {name} stood at {it}
            {name} set the hand to {it}
            {name} read {it} on the dial
            at first the dial told {name} {it}
            for {name} the hand was at {it}
            the hand had stopped for {name} at {it}
            when {name} looked up the dial said {it}
        """),
        _frames("""
            it ran on for {it} hours
            {it} hours went by on it
            then it went {it} hours on
            it was stopped after {it} hours
            the next {it} hours passed
            the wheel took it {it} hours along
        """),
        _cyclic(6),
    ),
    "weekday": LabelSet(  # a day and how many days later
        tuple("monday tuesday wednesday thursday friday saturday sunday".split()),
        _words("monday tuesday wednesday thursday friday saturday sunday"),
        _words("zero/seven one/eight two/nine three/ten four/eleven five/twelve six/thirteen"),
        _frames("""
            {name} sent the parcel on {it}
            it was {it} when {name} called
            on {it} {name} began to count
            the order of {name} came in on {it}
            {name} bought the ticket on a {it}
            the fever of {name} started on {it}
            a {it} was the day {name} left
        """),
        _frames("""
            it arrived {it} days later
            the answer took {it} days
            {it} days after that it was done
            it was back in {it} days
            the rest needed {it} days
            then {it} days passed until the end
        """),
        _cyclic(7),
    ),
}
