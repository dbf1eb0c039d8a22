"""The built-in corpus: short reviews from a seeded grammar, with the factors behind every sentence.

A review is about one business. Each of its sentences has an aspect, a sentiment and a register, and each of the three
follows a Markov chain within the review, so that what comes next depends on what came before: what TRACE's recurrent
latents are made for. Because the factors are returned, tests and the demo can ask whether the latents carry them.

The grammar is data. To add a sentence, add a template to `FRAMES` (fits every aspect) or `CLAUSES` (fits one):

- `[a|b|c]` takes one of the alternatives; `[a |]` may be empty.
- `{noun}` is what the sentence is about; `{was}`, `{it}`, `{them}`, `{his}` and `{which}` agree with it.
- `{adj}`, `{adj2}` can stand after "very"; `{desc}` may also be a phrase. All fit the aspect and the sentiment.
- `{I}`, `{me}`, `{my}`, `{I_was}`, `{I_am}` are "I" or "we" for the whole review; `{thing}` is the business ("diner").
- `{place}` names the business the way one does at this point of the review ("this diner", "it", "the place").
- A template that starts with `~` opens its own sentence: it takes neither a connective nor an introduction.
- Templates start in lower case and have no final full stop. A template with a comma takes no tail.
- A new template changes the reviews that every seed gives, and with them the example in `generate_reviews`.
- The formal register has its contractions written out by `_write_out`, so shared phrases may use them.
"""

import random
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


ASPECTS = ("product", "service", "price", "location", "atmosphere", "waiting", "cleanliness", "drinks")
SENTIMENTS = ("positive", "negative", "neutral")
REGISTERS = ("plain", "colloquial", "formal")


# ---------------------------------------------------------------------------------------------------------------------
# The chains. Rows and columns are in the order of the names above.
# ---------------------------------------------------------------------------------------------------------------------

# People open with what they came for, or with the people they met.
ASPECT_START = (0.28, 0.20, 0.08, 0.12, 0.12, 0.10, 0.05, 0.05)

# A review walks through a visit: product -> drinks -> price -> location -> atmosphere -> cleanliness -> service ->
# waiting -> product is the likeliest tour. The diagonal is zero (a sentence moves on) and the step back is rare, so
# that a review hardly ever contradicts itself, and so that the aspect before says much about the next one.
ASPECT_TRANSITIONS = (
    # product service price location atmosphere waiting cleanliness drinks
    (0.00, 0.20, 0.16, 0.05, 0.12, 0.04, 0.05, 0.38),  # product
    (0.18, 0.00, 0.10, 0.04, 0.10, 0.45, 0.04, 0.09),  # service
    (0.12, 0.16, 0.00, 0.44, 0.10, 0.08, 0.06, 0.04),  # price
    (0.12, 0.12, 0.04, 0.00, 0.46, 0.10, 0.10, 0.06),  # location
    (0.14, 0.12, 0.06, 0.04, 0.00, 0.05, 0.44, 0.15),  # atmosphere
    (0.46, 0.04, 0.18, 0.06, 0.10, 0.00, 0.06, 0.10),  # waiting
    (0.12, 0.44, 0.14, 0.10, 0.04, 0.10, 0.00, 0.06),  # cleanliness
    (0.04, 0.16, 0.46, 0.06, 0.16, 0.06, 0.06, 0.00),  # drinks
)

# Sticky: an opinion carries over, and two sentences in three agree with the one before.
SENTIMENT_START = (0.50, 0.35, 0.15)
SENTIMENT_TRANSITIONS = (
    # positive negative neutral
    (0.74, 0.15, 0.11),  # positive
    (0.18, 0.72, 0.10),  # negative
    (0.35, 0.30, 0.35),  # neutral
)

# Very sticky: a writer has one voice and seldom changes it.
REGISTER_START = (0.40, 0.33, 0.27)
REGISTER_TRANSITIONS = (
    # plain colloquial formal
    (0.90, 0.06, 0.04),  # plain
    (0.08, 0.90, 0.02),  # colloquial
    (0.08, 0.02, 0.90),  # formal
)

NUM_SENTENCES, NUM_SENTENCES_WEIGHTS = (3, 4, 5), (0.3, 0.4, 0.3)
MIN_WORDS, MAX_WORDS = 8, 15  # of a sentence; one that comes out shorter or longer is drawn again


# ---------------------------------------------------------------------------------------------------------------------
# Businesses: who is reviewed, and the nouns of each aspect. "+" marks a plural. `kind` picks the product's words.
# `deals`: (what, low, usual and high prices in dollars). `ready` completes "... within five minutes"; `await`
# completes "waited for ..."; `fast`, `usual`, `slow` are waiting times.
# ---------------------------------------------------------------------------------------------------------------------


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


_TABLE_WAIT = {
    "ready": ("{my} food arrived", "{my} order arrived", "{my} table was ready"),
    "await": ("a table", "{my} food", "{my} order"),
    "fast": ("five minutes", "ten minutes"),
    "usual": ("twenty minutes", "half an hour"),
    "slow": ("an hour", "fifty minutes", "ninety minutes"),
}

BUSINESSES = {
    "diner": {
        "kind": "food",
        "visit": _split("had lunch at this diner, came to this diner for breakfast, stopped at this diner for dinner"),
        "product": _split("burger, omelette, steak, chicken sandwich, +fries, +pancakes, +ribs, +onion rings"),
        "service": _split("waitress, waiter, manager, hostess, +servers, +staff"),
        "price": _split("bill, lunch price, final price, +prices, +menu prices"),
        "atmosphere": _split("dining room, decor, music, lighting, mood"),
        "cleanliness": _split("restroom, floor, counter, +tables, +chairs, +glasses"),
        "drinks": _split("coffee, iced tea, lemonade, +milkshakes, +sodas"),
        "deals": (
            ("lunch for two", (18, 22), (35, 38), (65, 75)),
            ("a burger with fries", (8, 9), (14, 15), (25, 28)),
        ),
        **_TABLE_WAIT,
    },
    "Italian restaurant": {
        "kind": "food",
        "visit": _split("had dinner at this Italian restaurant, went to this Italian restaurant for lunch"),
        "product": _split("pasta, lasagna, pizza, risotto, garlic bread, +meatballs, +ravioli"),
        "service": _split("waitress, waiter, hostess, manager, +servers, +staff"),
        "price": _split("bill, final price, +dinner prices, +prices, +menu prices"),
        "atmosphere": _split("dining room, decor, music, lighting, mood"),
        "cleanliness": _split("restroom, floor, tablecloth, +tables, +plates, +glasses"),
        "drinks": _split("house wine, red wine, lemonade, espresso, +cocktails"),
        "deals": (("dinner for two", (28, 35), (50, 55), (95, 120)), ("a large pizza", (9, 12), (16, 18), (28, 32))),
        **_TABLE_WAIT,
    },
    "Thai restaurant": {
        "kind": "food",
        "visit": _split("had dinner at this Thai restaurant, went to this Thai restaurant for lunch"),
        "product": _split("curry, fried rice, pad thai, duck, +noodles, +dumplings, +spring rolls"),
        "service": _split("waitress, waiter, owner, hostess, +servers, +staff"),
        "price": _split("bill, final price, +lunch prices, +prices, +menu prices"),
        "atmosphere": _split("dining room, decor, music, lighting, mood"),
        "cleanliness": _split("restroom, floor, counter, +tables, +plates, +glasses"),
        "drinks": _split("iced tea, green tea, beer, mango juice, +cocktails"),
        "deals": (("dinner for two", (25, 28), (45, 50), (85, 95)), ("a bowl of curry", (8, 9), (14, 15), (25, 28))),
        **_TABLE_WAIT,
    },
    "cafe": {
        "kind": "food",
        "visit": _split("had brunch at this cafe, stopped at this cafe for lunch, met a friend at this cafe"),
        "product": _split("breakfast sandwich, quiche, cheese toast, omelette, +waffles, +eggs, +hash browns"),
        "service": _split("barista, cashier, owner, waitress, +baristas, +staff"),
        "price": _split("bill, final price, +brunch prices, +prices, +menu prices"),
        "atmosphere": _split("back room, decor, music, lighting, mood"),
        "cleanliness": _split("restroom, floor, counter, +tables, +chairs, +cups"),
        "drinks": _split("coffee, espresso, cappuccino, green tea, hot chocolate, +lattes"),
        "deals": (
            ("brunch for two", (16, 18), (28, 32), (55, 65)),
            ("a coffee and a sandwich", (6, 8), (12, 14), (22, 25)),
        ),
        **_TABLE_WAIT,
    },
    "bakery": {
        "kind": "pastry",
        "visit": _split("went to this bakery for breakfast, bought a cake at this bakery, stopped at this bakery"),
        "product": _split("bread, carrot cake, apple pie, chocolate cake, +muffins, +cookies, +croissants, +bagels"),
        "service": _split("baker, cashier, owner, saleswoman, +cashiers, +staff"),
        "price": _split("final price, +prices, +cake prices"),
        "atmosphere": _split("shop, decor, music, lighting, mood"),
        "cleanliness": _split("floor, counter, display case, +shelves, +trays, +tables"),
        "drinks": _split("coffee, espresso, hot chocolate, apple juice, green tea"),
        "deals": (("a box of cookies", (6, 8), (12, 14), (22, 25)), ("a birthday cake", (18, 22), (35, 38), (75, 85))),
        "ready": ("{my} order was ready", "{my} cake was ready"),
        "await": ("{my} order", "{my} cake", "the cashier"),
        "fast": ("two minutes", "five minutes"),
        "usual": ("ten minutes", "fifteen minutes"),
        "slow": ("half an hour", "forty minutes", "an hour"),
    },
    "bar": {
        "kind": "food",
        "visit": _split("met friends at this bar, went to this bar after work, watched a game at this bar"),
        "product": _split("burger, flatbread, pork sandwich, grilled chicken, +nachos, +wings, +sliders, +fries"),
        "service": _split("bartender, waitress, manager, owner, +bartenders, +staff"),
        "price": _split("tab, bill, final price, +prices, +bar prices"),
        "atmosphere": _split("back room, decor, music, lighting, mood"),
        "cleanliness": _split("restroom, floor, counter, +tables, +glasses, +stools"),
        "drinks": _split("beer, house wine, cider, +cocktails, +margaritas, +martinis"),
        "deals": (
            ("a round for four", (18, 22), (35, 38), (65, 75)),
            ("a beer and a burger", (9, 12), (16, 18), (28, 32)),
        ),
        **_TABLE_WAIT,
    },
    "hotel": {
        "kind": "room",
        "visit": _split("spent two nights at this hotel, stayed at this hotel, spent a weekend at this hotel"),
        "product": _split("bed, mattress, sofa bed, +pillows, +beds, +mattresses"),
        "service": _split("receptionist, manager, night clerk, porter, +housekeepers, +staff"),
        "price": _split("room rate, bill, final price, +rates, +prices"),
        "atmosphere": _split("lobby, decor, music, lighting, lounge"),
        "cleanliness": _split("bathroom, carpet, shower, +sheets, +towels, +curtains"),
        "drinks": _split("lobby coffee, house wine, orange juice, green tea, +cocktails"),
        "deals": (
            ("one night", (65, 75), (120, 140), (280, 320)),
            ("a double room", (75, 85), (140, 150), (280, 320)),
        ),
        "ready": ("{my} room was ready", "{I} got {my} keys"),
        "await": ("{my} room", "{my} keys", "the elevator"),
        "fast": ("five minutes", "ten minutes"),
        "usual": ("twenty minutes", "half an hour"),
        "slow": ("an hour", "two hours", "ninety minutes"),
    },
    "hair salon": {
        "kind": "hair",
        "person": ("I",),  # nobody gets a haircut as "we"
        "visit": _split("got a haircut at this hair salon, went to this hair salon for a new color"),
        "product": _split("haircut, new color, trim, new style, +highlights, +layers, +bangs"),
        "service": _split("stylist, receptionist, owner, assistant, +stylists, +staff"),
        "price": _split("bill, final price, +prices, +salon prices"),
        "atmosphere": _split("salon, decor, music, lighting, mood"),
        "cleanliness": _split("floor, restroom, sink, +chairs, +brushes, +towels"),
        "drinks": _split("free coffee, green tea, espresso, orange juice, hot chocolate"),
        "deals": (
            ("a simple haircut", (18, 22), (35, 38), (75, 85)),
            ("a cut and color", (50, 55), (85, 95), (180, 220)),
        ),
        "ready": ("{my} stylist was ready", "{my} chair was free"),
        "await": ("{my} stylist", "a free chair"),
        "fast": ("two minutes", "five minutes"),
        "usual": ("fifteen minutes", "twenty minutes"),
        "slow": ("an hour", "fifty minutes", "ninety minutes"),
    },
    "garage": {
        "kind": "repair",
        "visit": _split(
            "took {my} car to this garage, dropped {my} car off at this garage, went to this garage with a flat tire"
        ),
        "product": _split("repair, brake job, oil change, tune-up, engine repair, +repairs"),
        "service": _split("mechanic, owner, manager, receptionist, +mechanics, +staff"),
        "price": _split("bill, estimate, final price, +prices, +labor costs"),
        "atmosphere": _split("waiting room, decor, music, lighting, mood"),
        "cleanliness": _split("restroom, floor, waiting room, +seats, +tables, +chairs"),
        "drinks": _split("free coffee, machine coffee, iced tea, hot chocolate, +sodas"),
        "deals": (("an oil change", (25, 28), (45, 50), (95, 120)), ("a new tire", (65, 75), (95, 120), (220, 280))),
        "ready": ("{my} car was ready", "{I} got the car back"),
        "await": ("the car", "a new part", "the repair"),
        "fast": ("an hour", "two hours"),
        "usual": ("a day", "two days"),
        "slow": ("a week", "five days", "ten days"),
    },
    "gym": {
        "kind": "training",
        "person": ("I",),
        "visit": _split("joined this gym, tried this gym for a week, started going to this gym"),
        "product": _split("spin class, yoga class, boxing class, step class, +classes, +workouts, +sessions"),
        "service": _split("trainer, receptionist, manager, coach, +trainers, +staff"),
        "price": _split("monthly fee, membership price, final price, +fees, +prices"),
        "atmosphere": _split("main hall, decor, music, lighting, mood"),
        "cleanliness": _split("locker room, floor, restroom, +showers, +mats, +machines"),
        "drinks": _split("protein shake, orange juice, green tea, coffee, +smoothies"),
        "deals": (("one month", (18, 22), (35, 38), (85, 95)), ("a day pass", (5, 6), (12, 14), (28, 32))),
        "ready": ("a machine was free", "{my} coach was ready"),
        "await": ("a free machine", "a shower", "{my} coach"),
        "fast": ("two minutes", "five minutes"),
        "usual": ("ten minutes", "fifteen minutes"),
        "slow": ("half an hour", "forty minutes", "an hour"),
    },
}

# Location is told apart by where things are, which does not depend on the business.
LOCATION_NOUNS = _split("location, neighborhood, area, spot")
WAITING_NOUNS = _split("wait, wait time, waiting time, line")
LANDMARKS = _split(
    "the train station, the park, the bus stop, city hall, the old market, the library, the main square, the museum, "
    "the river, the town center"
)
WHEN = _split("last week, on Friday, on Sunday, yesterday, last month, two weeks ago, last summer, on a rainy Monday")
WOMEN, MEN = ("waitress", "hostess", "saleswoman"), ("waiter",)


# ---------------------------------------------------------------------------------------------------------------------
# Adjectives: (those that can stand after "very", those that cannot). The product's are by kind of business.
# ---------------------------------------------------------------------------------------------------------------------


def _adjectives(gradable: str, absolute: str) -> dict[str, tuple[str, ...]]:
    return {"adj": _split(gradable), "desc": _split(gradable) + _split(absolute)}


ADJECTIVES = {
    "food": {
        "positive": _adjectives(
            "fresh, tasty, filling, satisfying", "delicious, cooked just right, full of flavor, excellent"
        ),
        "negative": _adjectives(
            "bland, greasy, dry, disappointing", "cold, overcooked, tasteless, cold in the middle"
        ),
        "neutral": _adjectives("average, ordinary, plain", "okay, edible, nothing special, fine"),
    },
    "pastry": {
        "positive": _adjectives(
            "fresh, soft, fluffy, tasty", "delicious, baked to perfection, excellent, full of flavor"
        ),
        "negative": _adjectives("dry, stale, hard, bland", "burnt, two days old, tasteless, like cardboard"),
        "neutral": _adjectives("average, ordinary, plain", "okay, edible, nothing special, fine"),
    },
    "room": {
        "positive": _adjectives(
            "comfortable, inviting, nice, soft", "as good as new, just what {I} needed, excellent"
        ),
        "negative": _adjectives(
            "uncomfortable, shabby, worn, disappointing", "falling apart, in poor shape, nothing like the photos"
        ),
        "neutral": _adjectives("average, ordinary, basic", "okay, nothing special, fine, good enough for one night"),
    },
    "hair": {
        "positive": _adjectives(
            "flattering, natural, pretty, modern", "gorgeous, just what {I} asked for, even better than in the photo"
        ),
        "negative": _adjectives("uneven, messy, dull, choppy", "a disaster, nothing like the photo, all wrong"),
        "neutral": _adjectives("average, ordinary, plain", "okay, nothing special, fine, good enough"),
    },
    "repair": {
        "positive": _adjectives(
            "thorough, careful, solid, precise", "flawless, done right, done with real care, excellent"
        ),
        "negative": _adjectives("sloppy, careless, poor, rushed", "a disaster, done all wrong, only half finished"),
        "neutral": _adjectives("average, ordinary, basic", "okay, nothing special, fine, good enough"),
    },
    "training": {
        "positive": _adjectives(
            "fun, varied, motivating, challenging", "well planned, great for beginners, excellent"
        ),
        "negative": _adjectives("boring, repetitive, chaotic, dull", "badly planned, far too easy, a waste of energy"),
        "neutral": _adjectives("average, ordinary, basic", "okay, nothing special, fine, good enough"),
    },
    "service": {
        "positive": _adjectives(
            "friendly, kind, helpful, attentive, polite, patient",
            "a delight, quick to help, happy to explain everything",
        ),
        "negative": _adjectives(
            "rude, unfriendly, impatient, distracted, grumpy", "nowhere in sight, no help at all, busy chatting"
        ),
        "neutral": _adjectives("reserved, quiet, businesslike", "okay, polite enough, polite but distant"),
    },
    "price": {
        "positive": _adjectives(
            "fair, reasonable, affordable, low", "a pleasant surprise, easy on the wallet, well worth it"
        ),
        "negative": _adjectives("steep, unfair, excessive", "hard to justify, double what {I} expected, out of line"),
        "neutral": _adjectives("average, normal, ordinary", "okay, about what {I} expected, normal for the area"),
    },
    "location": {
        "positive": _adjectives("convenient, central, safe", "easy to reach, close to everything, hard to beat"),
        "negative": _adjectives(
            "inconvenient, remote, sketchy, confusing", "hard to reach, far from everything, a long trip away"
        ),
        "neutral": _adjectives("average, ordinary, unremarkable", "okay, a bit out of the way, fine with a car"),
    },
    "atmosphere": {
        "positive": _adjectives("cozy, warm, relaxing, charming, welcoming", "just right, full of character, lovely"),
        "negative": _adjectives("gloomy, dreary, depressing, unpleasant", "without any charm, all wrong, awful"),
        "neutral": _adjectives("plain, simple, ordinary, basic", "okay, nothing special, fine"),
    },
    "waiting": {
        "positive": _adjectives(
            "short, painless, reasonable", "shorter than {I} expected, no problem at all, over quickly"
        ),
        "negative": _adjectives(
            "long, tiring, annoying, frustrating", "endless, a nightmare, much longer than promised"
        ),
        "neutral": _adjectives("average, normal, bearable", "okay, about what {I} expected, normal for a busy day"),
    },
    "cleanliness": {
        "positive": _adjectives("clean, tidy, well kept", "spotless, pristine, freshly cleaned, in perfect order"),
        "negative": _adjectives("dirty, grimy, filthy, neglected", "covered in stains, far from clean, disgusting"),
        "neutral": _adjectives("average, unremarkable, passable", "clean enough, okay, not dirty but not spotless"),
    },
    "drinks": {
        "positive": _adjectives("refreshing, smooth, flavorful", "excellent, perfectly served, the best in town"),
        "negative": _adjectives("weak, watery, bitter, stale", "lukewarm, impossible to finish, like dishwater"),
        "neutral": _adjectives("average, ordinary, plain", "okay, drinkable, nothing special"),
    },
}


# ---------------------------------------------------------------------------------------------------------------------
# Frames fit every aspect.
# ---------------------------------------------------------------------------------------------------------------------

FRAMES = {
    "positive": {
        "plain": (
            "the {noun} {was} [very|really|quite] {adj}",
            "the {noun} {was} {adj} and {adj2}",
            "{I} [thought|felt] the {noun} {was} {desc}",
            "{I} liked the {noun}, {which} {was} [very |really |]{adj}",
            "~as for the {noun}, {it} {was} [very|really] {adj} [overall|on the whole]",
            "one thing {I} liked was how {adj} the {noun} {was}",
        ),
        "colloquial": (
            "the {noun} {was} [so|super|seriously|crazy] {adj}",
            "~honestly, the {noun} {was} {desc}, [no joke|for real|hands down]",
            "{I}'ve gotta say the {noun} {was} {desc}",
            "~oh man, the {noun} {was} [so|super|seriously] {adj} and {adj2}",
            "~loved the {noun}, [so|super|seriously] {adj} [and {adj2}|every time|as always]",
            "{I} can't get over how {adj} the {noun} {was}",
            "{I_am} [totally in love with|obsessed with|crazy about] the {noun}, [so|super] {adj}",
        ),
        "formal": (
            "{I} found the {noun} to be [truly|exceptionally|remarkably] {adj}",
            "the {noun} {was} both {adj} and {adj2}",
            "{I_was} pleased to find the {noun} {adj} and {adj2}",
            "it is a pleasure to report that the {noun} {was} {desc}",
            "~in {my} opinion, the {noun} {was} [truly|exceptionally|remarkably] {adj}",
            "the {noun} {was}, without question, {desc}",
        ),
    },
    "negative": {
        "plain": (
            "the {noun} {was} [very|really|quite] {adj}",
            "the {noun} {was} {adj} and {adj2}",
            "{I} [thought|felt] the {noun} {was} {desc}",
            "{I} did not like the {noun}, {which} {was} [very |really |]{adj}",
            "~as for the {noun}, {it} {was} [very|really] {adj} [overall|on the whole]",
            "the {noun} let {me} down because {it} {was} [so |]{adj}",
        ),
        "colloquial": (
            "the {noun} {was} [so|way too|seriously|crazy] {adj}",
            "~ugh, the {noun} {was} {desc}, [no joke|for real|{I} swear]",
            "~man, {was} the {noun} {adj} and {adj2}",
            "{I}'ve gotta say the {noun} {was} {desc}",
            "~why {was} the {noun} so {adj} and {adj2}?",
            "{I} can't get over how {adj} the {noun} {was}",
            "~no joke, the {noun} {was} [so|seriously] {adj} and {adj2}",
        ),
        "formal": (
            "{I} found the {noun} to be [rather|quite|unusually] {adj}",
            "the {noun} {was} both {adj} and {adj2}",
            "~regrettably, {I} found that the {noun} {was} {desc}",
            "{I} must report that the {noun} {was} {desc}",
            "{I_was} disappointed to find the {noun} {adj} and {adj2}",
            "the {noun} {was}, in {my} opinion, {desc}",
        ),
    },
    "neutral": {
        "plain": (
            "the {noun} {was} {desc}, [on the whole|no more and no less]",
            "the {noun} {was} {desc}, [not great but not bad|neither good nor bad]",
            "{I} thought the {noun} {was} {desc}, [on the whole|no more and no less]",
            "~there is not much to say about the {noun}",
            "~as for the {noun}, {it} {was} [very|really] {adj} [overall|on the whole]",
        ),
        "colloquial": (
            "the {noun} {was} [kinda|sorta|pretty] {adj}, [whatever|{I} guess|no biggie]",
            "~meh, the {noun} {was} {desc}, [whatever|{I} guess|no biggie]",
            "the {noun} {was} {desc}, [{I} can't complain|no biggie|{I} guess]",
            "{I_am} [on the fence|torn] about the {noun}, [sorta|kinda|pretty] {adj}",
        ),
        "formal": (
            "the {noun} {was} {desc}, though [not memorable|hardly remarkable]",
            "{I} would describe the {noun} as [rather|fairly] {adj}",
            "~{I} have neither praise nor complaint regarding the {noun}",
            "the {noun} {was}, on the whole, [rather|fairly] {adj}",
        ),
    },
}


# ---------------------------------------------------------------------------------------------------------------------
# Clauses fit one aspect (the product's: one kind of business).
# Their own slots: {deal} {low} {usual_price} {high}; {landmark}; {ready} {await} {fast} {usual} {slow}.
# ---------------------------------------------------------------------------------------------------------------------

CLAUSES = {
    "food": {
        "positive": {
            "plain": (
                "every bite of the {noun} tasted [fresh|homemade]",
                "the {noun} came with a [big|generous] portion and {was} {desc}",
                "{I} would order the {noun} again [any day|next time]",
            ),
            "colloquial": (
                "the {noun} blew {me} away, [so|super|seriously] {adj}",
                "{I} could eat the {noun} every single [day|week]",
                "~oh wow, the {noun}, so {adj} {I} licked the plate",
            ),
            "formal": (
                "the {noun} {was} prepared with [great|evident|considerable] skill",
                "{I} particularly recommend the {noun}, which {was} {desc}",
                "the kitchen [prepared|seasoned|presented] the {noun} with great care",
            ),
        },
        "negative": {
            "plain": (
                "the {noun} tasted like {it} came out of a [microwave|can]",
                "{I} left [half|most] of the {noun} on the plate",
                "{I} sent the {noun} back because {it} {was} {desc}",
            ),
            "colloquial": (
                "{my} dog wouldn't [touch|eat] the {noun}, [so|that's how] {adj}",
                "~yuck, the {noun} tasted like [cardboard|old socks|rubber]",
                "~how do you even mess up the {noun} [this|that] badly?",
            ),
            "formal": (
                "the {noun} fell [well|far] short of {my} expectations",
                "the kitchen served the {noun} [cold|overcooked|without any seasoning]",
                "the {noun} appeared to have been reheated [several times|more than once]",
            ),
        },
        "neutral": {
            "plain": (
                "the {noun} tasted like [{it} does anywhere|any other in town]",
                "{I} ate the {noun}, but {I} would not order {them} again",
            ),
            "colloquial": (
                "the {noun} filled {me} up, [that's about it|nothing wild]",
                "~{I}'ve had better and worse than the {noun}, [whatever|no biggie]",
            ),
            "formal": (
                "the {noun} {was} of [average|acceptable] quality for a kitchen of this kind",
                "the {noun} neither impressed nor disappointed {me}",
            ),
        },
    },
    "pastry": {
        "positive": {
            "plain": (
                "every bite of the {noun} tasted [fresh|homemade]",
                "the {noun} {was} still warm from the oven",
                "{I} would buy the {noun} again [any day|next time]",
            ),
            "colloquial": (
                "the {noun} blew {me} away, [so|super|seriously] {adj}",
                "{I} could eat the {noun} every single [day|week]",
                "~oh wow, the {noun} melted on the tongue",
            ),
            "formal": (
                "the {noun} {was} baked with [great|evident|considerable] skill",
                "{I} particularly recommend the {noun}, which {was} {desc}",
                "the {noun} had an exceptionally [fine|delicate] texture",
            ),
        },
        "negative": {
            "plain": (
                "the {noun} tasted like {it} came out of a [freezer|box]",
                "{I} threw away [half|most] of the {noun}",
                "the {noun} {was} burnt on the outside and raw in the middle",
            ),
            "colloquial": (
                "{my} dog wouldn't [touch|eat] the {noun}, [so|that's how] {adj}",
                "~yuck, the {noun} tasted like [cardboard|old socks|rubber]",
                "~how do you even mess up the {noun} [this|that] badly?",
            ),
            "formal": (
                "the {noun} fell [well|far] short of {my} expectations",
                "the {noun} {was} clearly not baked on the same day",
                "the {noun} had an unpleasantly [hard|dry] texture",
            ),
        },
        "neutral": {
            "plain": (
                "the {noun} tasted like [{it} does anywhere|any other in town]",
                "{I} ate the {noun}, but {I} would not buy {them} again",
            ),
            "colloquial": (
                "the {noun} filled {me} up, [that's about it|nothing wild]",
                "~{I}'ve had better and worse than the {noun}, [whatever|no biggie]",
            ),
            "formal": (
                "the {noun} {was} of [average|acceptable] quality for a shop of this kind",
                "the {noun} neither impressed nor disappointed {me}",
            ),
        },
    },
    "room": {
        "positive": {
            "plain": (
                "{I} slept [very well|all night] because the {noun} {was} {adj}",
                "{I} had the best night in months thanks to the {noun}",
                "the {noun} looked even better than in the photos",
            ),
            "colloquial": (
                "{I} slept like a baby, the {noun} {was} that {adj}",
                "{I} wanna take the {noun} home with {me}",
                "~best night of sleep ever, the {noun} {was} [so|super] {adj}",
            ),
            "formal": (
                "the {noun} ensured a [peaceful|most restful] night of sleep",
                "the {noun} exceeded {my} expectations in every respect",
                "the quality of the {noun} deserves special praise",
            ),
        },
        "negative": {
            "plain": (
                "{I} hardly slept because the {noun} {was} so {adj}",
                "the {noun} looked nothing like the photos [online|on the website]",
                "{I} woke up with a sore back because of the {noun}",
            ),
            "colloquial": (
                "{I} could hardly walk the next day, the {noun} {was} that {adj}",
                "~{I}'ve slept better on a [bus|floor], the {noun} {was} that {adj}",
                "{I} couldn't sleep at all, thanks to the {adj} {noun}",
            ),
            "formal": (
                "the {noun} did not permit a restful night of sleep",
                "the {noun} fell [well|far] short of {my} expectations",
                "the {noun} had clearly seen better days",
            ),
        },
        "neutral": {
            "plain": (
                "the {noun} did the job for a short stay",
                "{I} slept okay, although the {noun} {was} [quite|pretty] {adj}",
            ),
            "colloquial": (
                "the {noun} {was} okay to crash for a night, {I} guess",
                "~{I}'ve slept better and worse, the {noun} {was} [kinda|sorta] {adj}",
            ),
            "formal": (
                "the {noun} {was} adequate for a short stay",
                "the {noun} neither impressed nor disappointed {me}",
            ),
        },
    },
    "hair": {
        "positive": {
            "plain": (
                "the {noun} made {me} look [years younger|better than ever]",
                "{I} got compliments on the {noun} [all week|at work]",
                "the {noun} still looked {adj} after [two|three] weeks",
            ),
            "colloquial": (
                "{I} can't stop looking in the mirror, the {noun} {was} that {adj}",
                "{my} friends [all want|are jealous of] the {noun}",
                "~oh wow, the {noun} made {me} feel like a movie star",
            ),
            "formal": (
                "the {noun} {was} executed with [great|evident|considerable] skill",
                "the {noun} exceeded {my} expectations in every respect",
                "{I} received numerous compliments on the {noun}",
            ),
        },
        "negative": {
            "plain": (
                "{I} had to get the {noun} fixed [somewhere else|by a friend]",
                "the {noun} made {me} look [ten years older|tired]",
                "{I} wore a hat for a week because of the {noun}",
            ),
            "colloquial": (
                "{I} cried in the car, the {noun} {was} that {adj}",
                "~how do you even mess up the {noun} [this|that] badly?",
                "{my} little brother could've done the {noun} better",
            ),
            "formal": (
                "the {noun} bore no resemblance to {my} request",
                "the {noun} had to be corrected [elsewhere|at another salon]",
                "the {noun} fell [well|far] short of {my} expectations",
            ),
        },
        "neutral": {
            "plain": (
                "nobody noticed the {noun} but nobody laughed either",
                "the {noun} looked about the same as before",
            ),
            "colloquial": (
                "~{I}'ve had better and worse than the {noun}, [whatever|no biggie]",
                "the {noun} came out [kinda|sorta] {adj}, {I} guess",
            ),
            "formal": (
                "the {noun} {was} adequate, if not quite what {I} had imagined",
                "the {noun} neither impressed nor disappointed {me}",
            ),
        },
    },
    "repair": {
        "positive": {
            "plain": (
                "{my} car has run [perfectly|smoothly] since the {noun}",
                "the strange noise was gone [right |]after the {noun}",
                "the {noun} {was} done right the first time",
            ),
            "colloquial": (
                "{my} old car purrs like a kitten after the {noun}",
                "~wow, the {noun} made {my} car feel [brand new|ten years younger]",
                "they totally nailed the {noun}, [so|super|seriously] {adj}",
            ),
            "formal": (
                "the {noun} {was} carried out with [great|evident|considerable] skill",
                "the vehicle has performed flawlessly since the {noun}",
                "the {noun} exceeded {my} expectations in every respect",
            ),
        },
        "negative": {
            "plain": (
                "{my} car would not start [two days|a week] after the {noun}",
                "the same warning light came on right after the {noun}",
                "another mechanic had to redo the {noun}",
            ),
            "colloquial": (
                "{my} car sounds worse than before the {noun}, [no joke|{I} swear]",
                "~how do you even mess up the {noun} [this|that] badly?",
                "{my} little brother could've done the {noun} better",
            ),
            "formal": (
                "the {noun} failed to resolve the [original |]fault",
                "the vehicle required further work shortly after the {noun}",
                "the {noun} fell [well|far] short of {my} expectations",
            ),
        },
        "neutral": {
            "plain": (
                "{my} car runs about the same since the {noun}",
                "the {noun} {was} good enough for now",
            ),
            "colloquial": (
                "{my} car still moves after the {noun}, [so whatever|so no biggie]",
                "~{I}'ve seen better and worse than the {noun}, {I} guess",
            ),
            "formal": (
                "the {noun} {was} adequate, if not especially thorough",
                "the {noun} neither impressed nor disappointed {me}",
            ),
        },
    },
    "training": {
        "positive": {
            "plain": (
                "{I} feel [stronger|fitter] after only [two|three] weeks of the {noun}",
                "the {noun} pushed {me} without wearing {me} out",
                "{I} look forward to the {noun} every week",
            ),
            "colloquial": (
                "the {noun} kicked {my} butt and {I} loved it",
                "~wow, {I_am} hooked on the {noun}, [so|super] {adj}",
                "{I} can't get enough of the {noun}, [so|super] {adj}",
            ),
            "formal": (
                "the {noun} produced noticeable results within a few weeks",
                "the {noun} exceeded {my} expectations in every respect",
                "the {noun} {was} [expertly|carefully] adapted to {my} level",
            ),
        },
        "negative": {
            "plain": (
                "{I} learned [nothing|very little] from the {noun}",
                "{I} hurt {my} knee because the {noun} {was} so {adj}",
                "{I} left the {noun} after [ten|fifteen] minutes",
            ),
            "colloquial": (
                "{I} nearly fell asleep, the {noun} {was} that {adj}",
                "{my} grandma could've taught the {noun} better",
                "~how do you even mess up the {noun} [this|that] badly?",
            ),
            "formal": (
                "the {noun} lacked any clear structure",
                "the {noun} produced no noticeable results",
                "the {noun} fell [well|far] short of {my} expectations",
            ),
        },
        "neutral": {
            "plain": (
                "the {noun} did the job for a beginner like {me}",
                "the {noun} {was} neither hard nor easy",
            ),
            "colloquial": (
                "{I} broke a sweat with the {noun}, that's about it",
                "~{I}'ve seen better and worse than the {noun}, {I} guess",
            ),
            "formal": (
                "the {noun} {was} adequate, if not especially varied",
                "the {noun} neither impressed nor disappointed {me}",
            ),
        },
    },
    "service": {
        "positive": {
            "plain": (
                "the {noun} [answered all {my} questions|handled every request] with [a smile|patience]",
                "the {noun} remembered {me} from {my} last visit",
                "the {noun} checked on {me} [twice|often] without being pushy",
                "the {noun} went out of {his} way to help {me}",
                "the {noun} fixed a small mistake [right away|without being asked]",
            ),
            "colloquial": (
                "the {noun} treated {me} like [family|royalty]",
                "~shout-out to the {noun} for [cheering {me} up|being so {adj}|fixing {my} mess]",
                "the {noun} had {me} laughing the whole time",
                "the {noun} totally [saved the day|made {my} day|rocked], [so|super] {adj}",
                "~big hugs to the {noun}, [so|super|seriously] {adj} and {adj2}",
            ),
            "formal": (
                "the {noun} attended to {my} [needs|requests|questions] with [great care|courtesy|patience]",
                "the {noun} received {me} with [courtesy|genuine warmth|great kindness]",
                "the professionalism of the {noun} deserves [special mention|praise|recognition]",
                "{I_was} impressed by how {adj} the {noun} {was}",
                "{I} wish to thank the {noun} for [such patient help|excellent advice]",
            ),
        },
        "negative": {
            "plain": (
                "the {noun} [ignored|forgot about] {me} for most of {my} time there",
                "the {noun} got {my} [request|name] wrong [twice|again]",
                "the {noun} never once [smiled|apologized|said hello]",
                "the {noun} [argued with|talked down to] {me} over a small mistake",
                "{I} asked the {noun} for help and got [no answer|a shrug]",
            ),
            "colloquial": (
                "the {noun} acted like {I} [didn't exist|ruined {his} day]",
                "the {noun} [just shrugged|rolled {his} eyes] when {I} asked for help",
                "the {noun} couldn't care less about [{me}|anyone|helping anybody]",
                "{I} got nothing but [attitude|excuses] from the {noun}",
                "~who on earth trained the {noun} to be so {adj}?",
            ),
            "formal": (
                "the {noun} showed little [interest in|regard for] {my} [concerns|requests|questions]",
                "{I} considered the conduct of the {noun} [unprofessional|unacceptable]",
                "the {noun} [dismissed|refused to hear] {my} [complaint|concerns] without apology",
                "{I} expected courtesy from the {noun} but received [none|only indifference|excuses]",
            ),
        },
        "neutral": {
            "plain": (
                "the {noun} did the job without [much talk|fuss or charm]",
                "the {noun} said hello and then [left {me} alone|went back to work]",
                "the {noun} {was} neither [rude nor friendly|helpful nor unhelpful]",
            ),
            "colloquial": (
                "the {noun} kinda [came and went|did {his} thing], and that's it",
                "~no drama with the {noun}, no [high fives|hugs] either",
                "the {noun} {was} [pretty|kinda] {adj}, not rude, not sweet",
            ),
            "formal": (
                "the {noun} performed {his} duties [adequately|correctly] and nothing more",
                "the {noun} maintained a professional if [distant|reserved] manner",
                "{my} dealings with the {noun} were [brief and unremarkable|correct but impersonal]",
            ),
        },
    },
    "price": {
        "positive": {
            "plain": (
                "{I} paid [only|just] {low} for {deal}",
                "{deal} cost {me} [only|just] {low} [in total|with tax]",
                "{I} got a lot for {my} money with {deal} at {low}",
                "the {noun} [stayed|came in] [well |]under {my} budget",
                "{low} for {deal} is a [very |]fair price",
            ),
            "colloquial": (
                "~{low} for {deal}, can you believe it?",
                "{deal} for {low} is a total steal",
                "{my} wallet is so happy with the {noun}",
                "you won't find {deal} for less than {low} anywhere else",
                "~just {low} for {deal}, [what a deal|such a bargain]",
            ),
            "formal": (
                "{deal} for {low} represents [excellent|remarkable] value",
                "the {noun} {was} entirely {adj} given the [quality|standard] on offer",
                "{I} consider {low} for {deal} [a very modest sum|excellent value]",
                "few competitors offer {deal} at {low}",
            ),
        },
        "negative": {
            "plain": (
                "{I} paid {high} for {deal} and it was not worth it",
                "{high} for {deal} is [far too much|more than it is worth]",
                "{deal} cost {me} {high}, [twice what {I} expected|more than anywhere else]",
                "the {noun} {was} higher than [advertised|posted online]",
                "hidden fees [raised|pushed] the total to {high}",
            ),
            "colloquial": (
                "~{high} for {deal}, are you kidding {me}?",
                "~who in the world pays {high} for {deal}?",
                "{deal} for {high} is a total [rip-off|joke|scam]",
                "{my} wallet is still crying after paying {high} for {deal}",
            ),
            "formal": (
                "a charge of {high} for {deal} is [difficult to justify|excessive by any measure]",
                "{I_was} [dismayed|surprised] to be charged {high} for {deal}",
                "several charges were added without [prior notice|any explanation]",
                "the {noun} bore no relation to the [quality|standard] on offer",
            ),
        },
        "neutral": {
            "plain": (
                "{I} paid {usual_price} for {deal}, [which is average|about the same as elsewhere]",
                "the {noun} {was} [just |]about what {I} expected to pay",
                "{deal} costs {usual_price}, neither cheap nor expensive",
            ),
            "colloquial": (
                "~{usual_price} for {deal}, so [nothing crazy|not cheap but not nuts|pretty standard]",
                "{I} dropped {usual_price} on {deal}, [no biggie|which is whatever]",
                "the {noun} {was} [kinda|sorta] standard for this part of town",
            ),
            "formal": (
                "{deal} was priced at {usual_price}, [comparable to|as in] similar establishments",
                "the {noun} {was} in keeping with [the area|similar establishments]",
                "~at {usual_price}, {deal} is priced neither generously nor unfairly",
            ),
        },
    },
    "location": {
        "positive": {
            "plain": (
                "{place} is [right next to|across from|a short walk from|two minutes from] {landmark}",
                "there is [plenty of|free] parking [right outside|behind the building|across the street]",
                "{place} is easy to [find|reach] from {landmark}",
                "{I} walked over from {landmark} in [three|five|four] minutes",
            ),
            "colloquial": (
                "{place} is literally [steps|seconds] from {landmark}",
                "{I} snagged [free parking|a parking spot] right [out front|by the door]",
                "you can't beat a spot right by {landmark}",
                "~so close to {landmark}, that's [a dream|super handy|awesome]",
            ),
            "formal": (
                "{place} is ideally [situated|located] near {landmark}",
                "the proximity to {landmark} is a [considerable|distinct] advantage",
                "ample parking is available [on site|behind the building|across the street]",
                "{place} enjoys a [central|convenient|quiet] position near {landmark}",
            ),
        },
        "negative": {
            "plain": (
                "{place} is hidden behind a [gas station|warehouse] and hard to find",
                "{I} drove around for [ten|twenty|fifteen] minutes to find parking",
                "{place} is [too far|a long walk] from {landmark}",
                "{I} got lost [twice |]on the way from {landmark}",
                "the street was [badly lit|blocked] and parking was impossible",
            ),
            "colloquial": (
                "~good luck [finding parking|parking] anywhere near {landmark}",
                "{place} is in the middle of nowhere, miles from {landmark}",
                "parking there is a total [nightmare|joke|mess]",
                "{my} phone got lost twice trying to find the way from {landmark}",
            ),
            "formal": (
                "{place} is inconveniently [situated|located] [far from {landmark}|beside a busy highway]",
                "parking in the vicinity is [scarce|extremely limited]",
                "the journey involves a [lengthy|tedious] walk from {landmark}",
                "the absence of [signs|parking] makes the address difficult to reach",
            ),
        },
        "neutral": {
            "plain": (
                "{place} is on a side street [ten|fifteen] minutes from {landmark}",
                "there is some parking nearby, but you may have to look",
                "{place} is halfway between {landmark} and the highway",
            ),
            "colloquial": (
                "{place} is [kinda|sorta] tucked away near {landmark}, [no biggie|whatever]",
                "parking was hit or miss, took {me} [five|ten] minutes, whatever",
            ),
            "formal": (
                "{place} is situated in an ordinary street near {landmark}",
                "parking is available, though [somewhat|rather] limited at peak times",
                "{place} can be reached from {landmark} without undue difficulty",
            ),
        },
    },
    "atmosphere": {
        "positive": {
            "plain": (
                "[soft music|warm light] and [fresh flowers|comfortable chairs] made {me} feel [welcome|relaxed]",
                "the {noun} gave the place a [warm|friendly|calm] feel",
                "{I} felt [at home|relaxed|welcome] as soon as {I} walked in",
                "the [old photos|paintings|posters] on the walls add [charm|character|color]",
            ),
            "colloquial": (
                "{I} could hang out there all day, the {noun} {was} that {adj}",
                "the vibe was [so chill|amazing|so cool] and the {noun} {was} {adj}",
                "~such a [cool|chill|cute] vibe, {I} didn't wanna leave",
                "walking in felt like [getting a warm hug|coming home]",
            ),
            "formal": (
                "the {noun} created [a sense of calm|an air of elegance|a feeling of comfort]",
                "the interior has been designed with [evident care|excellent taste]",
                "soft lighting and tasteful [furniture|music] completed a [pleasant|serene] ambience",
            ),
        },
        "negative": {
            "plain": (
                "the music was so loud that {I} could hardly think",
                "the place felt [empty|cold|cramped] and the [lights were too bright|chairs were uncomfortable]",
                "[loud music|harsh light] and [bare walls|broken chairs] made it hard to relax",
                "{I} felt [uneasy|out of place] as soon as {I} walked in",
            ),
            "colloquial": (
                "the vibe was [dead|off|weird], like [a bus station|a funeral]",
                "{my} ears are still ringing from that awful music",
                "it felt like [a basement|a prison] in there, zero charm",
                "~whoever picked the music and the lights should be fired",
            ),
            "formal": (
                "the volume of the music made conversation [impossible|a struggle]",
                "the interior is [tired|dated] and lacks any [warmth|charm|comfort]",
                "the {noun} left {me} with [a sense of gloom|an unpleasant impression]",
                "harsh lighting and [dated furniture|constant noise] spoiled the ambience",
            ),
        },
        "neutral": {
            "plain": (
                "the place was plain, with [white walls|wooden chairs] and [quiet music|no music]",
                "the {noun} {was} neither cozy nor cold",
            ),
            "colloquial": (
                "the vibe was [meh|whatever], just [some chairs and a radio|your usual {thing}]",
                "~nothing [fancy|wild] about the {noun}, just [kinda|sorta] {adj}",
            ),
            "formal": (
                "the interior is [modest|functional] and without [particular charm|distinction]",
                "the {noun} {was} {adj}, though [not unpleasant|perfectly acceptable]",
            ),
        },
    },
    "waiting": {
        "positive": {
            "plain": (
                "{ready} [within|after only|in less than] {fast}",
                "{I} waited [less than|only|just] {fast} for {await}",
                "there was no line and {ready} within {fast}",
                "it took [less than|only|just] {fast} to get {await}",
            ),
            "colloquial": (
                "~boom, {fast} and {ready}, [so fast|crazy fast|no joke]",
                "{ready} in like {fast}, [so fast|crazy fast|no joke]",
                "{I} barely sat down before {ready}",
                "~zero wait for {await}, [love it|that never happens]",
            ),
            "formal": (
                "{ready} promptly, [within {fast}|precisely as promised]",
                "the delay before {ready} did not exceed {fast}",
                "{I} waited no more than {fast} for {await}",
                "{my} time was respected, and {ready} within {fast}",
            ),
        },
        "negative": {
            "plain": (
                "{I} waited [more than|over|almost] {slow} for {await}",
                "{ready} only after {slow} and [two reminders|three reminders]",
                "the line barely moved and {I} waited {slow}",
                "they promised {me} {usual} but it took {slow}",
            ),
            "colloquial": (
                "{I} waited {slow} for {await}, [no joke|that's insane|{I} swear]",
                "~{slow} for {await}, who has that kind of time?",
                "{I} could've [read a book|walked home|learned French] before {ready}",
                "{I} nearly [fell asleep|grew a beard] waiting for {await}",
            ),
            "formal": (
                "{ready} only after an [unacceptable|unexplained] delay of {slow}",
                "{I_was} obliged to wait {slow} for {await}",
                "no explanation was given for a delay of {slow}",
                "~despite arriving on time, {I} waited {slow} for {await}",
            ),
        },
        "neutral": {
            "plain": (
                "{I} waited about {usual} for {await}, which is [normal|average]",
                "{ready} after {usual}, [neither fast nor slow|about as expected]",
            ),
            "colloquial": (
                "~{usual} for {await}, so [not great but not terrible|pretty standard]",
                "{ready} in like {usual}, so [no biggie|whatever]",
            ),
            "formal": (
                "{ready} after {usual}, which is acceptable [for a busy day|at peak times]",
                "a wait of {usual} for {await} is within reason",
            ),
        },
    },
    "cleanliness": {
        "positive": {
            "plain": (
                "the {noun} looked [brand new|freshly cleaned|spotless]",
                "someone clearly cleans the {noun} [every day|several times a day]",
                "the {noun} smelled [fresh|clean] and looked [spotless|brand new]",
                "{I} could not find a [speck of dust|single stain] anywhere",
            ),
            "colloquial": (
                "you could eat off anything in there, the {noun} {was} that clean",
                "the {noun} {was} so {adj} {it} sparkled",
                "~not a speck of dust anywhere, even the {noun} sparkled",
                "{my} mom is a neat freak and she'd love the {noun}",
            ),
            "formal": (
                "the {noun} {was} maintained to [the highest|an exemplary] standard",
                "the standard of hygiene was [exemplary|truly impressive]",
                "{I} observed that the {noun} {was} cleaned [regularly|with great care]",
            ),
        },
        "negative": {
            "plain": (
                "it looked like nobody had cleaned the {noun} in [weeks|days|months]",
                "there was [dust|dirt|trash] [all over the place|in every corner]",
                "{I} had to ask someone to clean the {noun}",
                "the {noun} smelled bad and looked [worse|dirty]",
            ),
            "colloquial": (
                "~eww, the {noun} {was} [so|seriously|super] {adj} and {adj2}",
                "{I} didn't wanna touch anything, the {noun} {was} that {adj}",
                "~when did they last clean the {noun}, [last year|in the nineties]?",
                "the {noun} {was} so {adj} {I} almost [gagged|ran out]",
            ),
            "formal": (
                "the {noun} had evidently not been cleaned for [some time|several days]",
                "the standard of hygiene was [unacceptable|alarming]",
                "stains and dust were visible [throughout|on every surface]",
                "the condition of the {noun} raises serious concerns about hygiene",
            ),
        },
        "neutral": {
            "plain": (
                "the {noun} looked clean enough, though [not spotless|a bit worn]",
                "the {noun} could use [a quick wipe|some attention] but {was} not dirty",
            ),
            "colloquial": (
                "the {noun} {was} clean-ish, [whatever|good enough for {me}]",
                "~a bit of dust here and there, but the {noun} {was} okay",
            ),
            "formal": (
                "the {noun} {was} acceptably clean, though [somewhat worn|not immaculate]",
                "the {noun} met the [minimum|basic] standard of hygiene",
            ),
        },
    },
    "drinks": {
        "positive": {
            "plain": (
                "{I} happily went back for more of the {noun}",
                "the {noun} had a [rich|clean|balanced] taste",
                "the {noun} alone {was} worth the visit",
                "the {noun} tasted [fresh|wonderful] from the first sip",
            ),
            "colloquial": (
                "the {noun} hit the spot, [so|super|seriously] {adj}",
                "~yum, the {noun} {was} [so|super|seriously] {adj} and {adj2}",
                "{I} could drink the {noun} all [day|week] long",
                "whoever made the {noun} is a [genius|magician|legend]",
            ),
            "formal": (
                "the {noun} possessed a [delicate|balanced|refined] flavor",
                "{I} would particularly recommend the {noun}, which {was} {adj}",
                "the {noun} {was} served at exactly the right temperature",
            ),
        },
        "negative": {
            "plain": (
                "{I} could not finish the {noun}, which tasted [old|strange|watered down]",
                "the {noun} tasted more like [soap|mud] than anything else",
                "{I} poured out the {noun} after [one sip|two sips]",
            ),
            "colloquial": (
                "~yuck, the {noun} {was} {desc}, [no joke|{I} swear|for real]",
                "{I} took one sip of the {noun} and [gave up|nearly spat {them} out]",
                "the {noun} tasted like [dishwater|old socks|rain water]",
                "~seriously, who messes up the {noun} that badly?",
            ),
            "formal": (
                "the {noun} {was} served at entirely the wrong temperature",
                "the {noun} fell [well|far] short of {my} expectations",
                "{I} left the {noun} largely untouched after [one sip|the first sip]",
            ),
        },
        "neutral": {
            "plain": (
                "the {noun} tasted about the same as anywhere",
                "the {noun} {was} drinkable but [not memorable|not special]",
            ),
            "colloquial": (
                "the {noun} {was} [kinda|sorta] {adj}, {it} did the job",
                "~{I}'ve had better and worse than the {noun}, [whatever|no biggie]",
            ),
            "formal": (
                "the {noun} {was} of [average|ordinary] quality",
                "the {noun} neither impressed nor disappointed {me}",
            ),
        },
    },
}


# ---------------------------------------------------------------------------------------------------------------------
# What joins sentences into a review: introductions, connectives, tails and closings.
# ---------------------------------------------------------------------------------------------------------------------

INTRODUCTIONS = {
    "plain": (
        "{I} {visit} {when}, and",
        "{I} {visit} {when} and",
        "{I}'ve been to this {thing} [twice|three times], and",
        "a friend told {me} about this {thing}, and",
        "after [two|three] visits to this {thing}, {I} can say that",
    ),
    "colloquial": (
        "okay so {I} {visit} {when} and",
        "{I} finally {visit} {when} and",
        "so {I_was} at this {thing} {when} and",
        "quick note about this {thing}:",
        "first time at this {thing} and",
    ),
    "formal": (
        "{I} {visit} {when}, and",
        "{I} recently {visit}, and",
        "having visited this {thing} [twice|recently], {I} can report that",
        "{I} came to this {thing} on recommendation, and",
    ),
}

# By the sentiments of the sentence before and of this one.
CONNECTIVES = {
    ("positive", "positive"): {
        "plain": ("also,", "on top of that,", "another plus:", "and", "better still,"),
        "colloquial": ("plus,", "also,", "and", "and get this:", "even better,"),
        "formal": ("furthermore,", "in addition,", "moreover,", "likewise,"),
    },
    ("negative", "negative"): {
        "plain": ("also,", "on top of that,", "and", "to make matters worse,", "another minus:"),
        "colloquial": ("plus,", "and", "it gets worse:", "to top it off,", "oh, and"),
        "formal": ("furthermore,", "in addition,", "moreover,", "worse still,"),
    },
    ("neutral", "neutral"): {
        "plain": ("also,", "likewise,", "and", "otherwise,"),
        "colloquial": ("also,", "and", "same story:"),
        "formal": ("likewise,", "in addition,", "similarly,"),
    },
    ("negative", "positive"): {
        "plain": ("but", "still,", "on the bright side,", "luckily,", "even so,"),
        "colloquial": ("but hey,", "on the bright side,", "luckily,", "still,", "but"),
        "formal": ("nevertheless,", "fortunately,", "on a happier note,", "that said,"),
    },
    ("positive", "negative"): {
        "plain": ("but", "unfortunately,", "however,", "sadly,", "the one problem:"),
        "colloquial": ("but", "too bad", "but here's the thing:", "sadly,", "but then"),
        "formal": ("however,", "unfortunately,", "that said,", "nevertheless,"),
    },
    ("positive", "neutral"): {
        "plain": ("otherwise,", "but", "apart from that,"),
        "colloquial": ("but", "other than that,", "that said,"),
        "formal": ("otherwise,", "that said,", "apart from this,"),
    },
    ("negative", "neutral"): {
        "plain": ("otherwise,", "apart from that,", "at least"),
        "colloquial": ("other than that,", "at least", "okay,"),
        "formal": ("otherwise,", "apart from this,", "at least"),
    },
    ("neutral", "positive"): {
        "plain": ("but", "luckily,", "on the bright side,"),
        "colloquial": ("but hey,", "but", "now the fun part:"),
        "formal": ("however,", "fortunately,", "on a happier note,"),
    },
    ("neutral", "negative"): {
        "plain": ("but", "unfortunately,", "sadly,", "however,"),
        "colloquial": ("but", "sadly,", "now the bad part:"),
        "formal": ("however,", "unfortunately,", "worse,"),
    },
}

# Whole sentences that refer back to the one before.
BACK_REFERENCES = {
    ("positive", "positive"): {
        "plain": (
            "the same goes for the {noun}, {which} {was} {desc}",
            "the {noun} {was} just as good, {adj} and {adj2}",
        ),
        "colloquial": (
            "same goes for the {noun}, [so|super] {adj} and {adj2}",
            "and it gets better, the {noun} {was} {desc}",
        ),
        "formal": (
            "equally pleasing {was} the {noun}, {which} {was} {desc}",
            "the same praise is due to the {noun}, {which} {was} {adj}",
        ),
    },
    ("negative", "negative"): {
        "plain": (
            "the {noun} {was} no better, {adj} and {adj2}",
            "the same goes for the {noun}, {which} {was} {desc}",
        ),
        "colloquial": (
            "and don't get me started on the {noun}, [so|way too] {adj}",
            "the {noun} {was} even worse, just {adj} and {adj2}",
        ),
        "formal": (
            "equally poor {was} the {noun}, {which} {was} {desc}",
            "the {noun} proved no better, being {adj} and {adj2}",
        ),
    },
    ("negative", "positive"): {
        "plain": (
            "the {noun} made up for it, {it} {was} [very|really] {adj}",
            "{I} forgot all that because the {noun} {was} so {adj}",
        ),
        "colloquial": (
            "the {noun} saved it though, [so|super] {adj} and {adj2}",
            "but the {noun} totally made up for that, [so|super] {adj}",
        ),
        "formal": ("this was offset by the {noun}, {which} {was} [truly|remarkably] {adj}",),
    },
    ("positive", "negative"): {
        "plain": (
            "the {noun} spoiled that a little, {it} {was} [very|really] {adj}",
            "that made it harder to accept how {adj} the {noun} {was}",
        ),
        "colloquial": (
            "the {noun} kinda killed that though, [so|way too] {adj}",
            "can't say the same for the {noun}, [so|way too] {adj}",
        ),
        "formal": ("the same cannot be said of the {noun}, {which} {was} {desc}",),
    },
}

# Follow a clause on this aspect (the product's: this kind of business).
TAILS = {
    "food": {
        "positive": (", and {I} cleaned {my} plate", ", and {I} want the recipe", ", and {I} ordered seconds"),
        "negative": (", so {I} skipped dessert", ", and {I} went home hungry", ", which ruined the meal"),
        "neutral": (", which is all right with {me}", ", and the portion was average"),
    },
    "pastry": {
        "positive": (", and {I} cleaned {my} plate", ", and {I} took a box home"),
        "negative": (", so {I} went to another shop", ", which was a waste of flour", ", and the birds got the rest"),
        "neutral": (", like in any supermarket", ", and {I} might try something else"),
    },
    "room": {
        "positive": (", which {I} needed after a long drive", ", and {I} woke up rested", ", so getting up was hard"),
        "negative": (", so {I} counted sheep all night", ", and {I} slept on the floor in the end"),
        "neutral": (", but {I} slept okay", ", and {I} did not need more"),
    },
    "hair": {
        "positive": (
            ", so {I} smile in every photo",
            ", and everybody noticed right away",
            ", so {I} feel like new",
        ),
        "negative": (
            ", so {I} avoid mirrors now",
            ", and {my} friends tried not to laugh",
            ", and it won't grow out soon",
        ),
        "neutral": (", but {my} friends were polite about it", ", and it will grow out anyway"),
    },
    "repair": {
        "positive": (
            ", and {my} mind is at ease",
            ", and nothing rattles now",
            ", so {I} feel safe on the road again",
        ),
        "negative": (
            ", so the car broke down again",
            ", and the noise came right back",
            ", and now the brakes squeak",
        ),
        "neutral": (", and nothing fell off", ", and the car sounds the same as before"),
    },
    "training": {
        "positive": (", and {I} sleep better too", ", and {my} energy is back", ", so {I} never want to skip"),
        "negative": (
            ", so {I} stayed home after that",
            ", and {I} never broke a sweat",
            ", and {my} knee still hurts",
        ),
        "neutral": (", but it beats sitting at home", ", and {I} will give it another week"),
    },
    "service": {
        "positive": (", which made {my} day", ", and {I} never felt rushed", ", and it felt sincere"),
        "negative": (", which spoiled the visit", ", and nobody else stepped in", ", so {I} stopped asking"),
        "neutral": (", which was fine with {me}", ", and that was that"),
    },
    "price": {
        "positive": (", so {I} told {my} friends", ", and there were no hidden fees", ", which is rare these days"),
        "negative": (", so check every line twice", ", and tax came on top", ", and nobody could explain why"),
        "neutral": (", so no surprises there", ", and tax was included"),
    },
    "location": {
        "positive": (
            ", which saved {me} a lot of time",
            ", and buses run until late",
            ", which is perfect for visitors",
        ),
        "negative": (", so bring a map", ", and the bus doesn't go there", ", and the roads are bad"),
        "neutral": (", so plan a few extra minutes", ", but the bus goes there"),
    },
    "atmosphere": {
        "positive": (", so {I} stayed a little longer", ", and it made {me} smile", ", which {I} loved"),
        "negative": (", so {I} wanted to leave", ", and it gave {me} a headache", ", which {I} hated"),
        "neutral": (", but {I} didn't come for the looks", ", and nobody seemed to mind"),
    },
    "waiting": {
        "positive": (", even though it was busy", ", and {I_was} never bored", ", so {I} had time to spare"),
        "negative": (", and nobody knew why", ", and nobody said sorry", ", which ruined {my} plans"),
        "neutral": (", so bring a magazine", ", and there were places to sit"),
    },
    "cleanliness": {
        "positive": (", even on a busy day", ", so {I} had no worries", ", which {I} really value"),
        "negative": (
            ", so {I} touched as little as possible",
            ", and they didn't care",
            ", so {I} washed {my} hands twice",
        ),
        "neutral": (", like in most places", ", and {I} have seen worse"),
    },
    "drinks": {
        "positive": (", and {I} don't praise lightly", ", just as {I} like {them}", ", which surprised {me}"),
        "negative": (", so {I} switched to water", ", and nobody offered another", ", and the strange taste lingered"),
        "neutral": (", so {I} had just one", ", but it was not why {I} came"),
    },
}

# Follow the last clause of a review.
CLOSINGS = {
    "positive": {
        "plain": (
            ", so {I}'ll be back",
            ", and {I} would go again",
            ", so {I} recommend this {thing}",
            ", and {I} can't wait to return",
        ),
        "colloquial": (
            ", so yeah, go",
            ", and {I}'ll so be back",
            ", five stars from {me}",
            ", {I_am} telling all {my} friends",
        ),
        "formal": (
            ", and {I} shall gladly return",
            ", so {I} recommend it without hesitation",
            ", which merits a return visit",
        ),
    },
    "negative": {
        "plain": (", so {I} won't be back", ", and {I} would not go again", ", so {I} can't recommend this {thing}"),
        "colloquial": (
            ", so nope, never again",
            ", and {I_am} so done here",
            ", one star from {me}",
            ", save your money",
        ),
        "formal": (", and {I} shall not return", ", so {I} cannot recommend it", ", which rules out a return visit"),
    },
    "neutral": {
        "plain": (", so {I} may or may not return", ", so three stars from {me}"),
        "colloquial": (", so {I} might be back, who knows", ", three stars from {me}"),
        "formal": (", so {my} verdict remains open", ", and {I} may return in due course"),
    },
}

BACK_REFERENCE_RATE, FRAME_RATE = 0.15, 0.4
INTRODUCTION_RATE, CONNECTIVE_RATE, TAIL_RATE, CLOSING_RATE = 0.55, 0.5, 0.5, 0.5
EXCLAMATION_RATE = {"plain": 0.03, "colloquial": 0.5, "formal": 0.0}


# ---------------------------------------------------------------------------------------------------------------------
# From the data above to reviews.
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Review:
    """A review and the factors that it was written from.

    Args:
        text (`str`): The whole review; `" ".join(sentences)`.
        sentences (`tuple[str, ...]`): Its 3 to 5 sentences.
        aspects (`tuple[str, ...]`): What each sentence is about, from `ASPECTS`.
        sentiments (`tuple[str, ...]`): What each sentence thinks of it, from `SENTIMENTS`.
        registers (`tuple[str, ...]`): The voice of each sentence, from `REGISTERS`.
        business (`str`): The kind of business under review, a key of `BUSINESSES`.
    """

    text: str
    sentences: tuple[str, ...]
    aspects: tuple[str, ...]
    sentiments: tuple[str, ...]
    registers: tuple[str, ...]
    business: str


_CHOICE = re.compile(r"\[([^\]]*)\]")
_WRITTEN_OUT = {"won't": "will not", "can't": "cannot", "n't": " not", "'ve": " have", "'ll": " will", "'m": " am"}
_CONTRACTION = re.compile("|".join(_WRITTEN_OUT))


def _write_out(text: str) -> str:
    return _CONTRACTION.sub(lambda match: _WRITTEN_OUT[match[0]], text)


class _Words(dict):
    """The slots of one sentence. A slot that is missing is drawn when a template first asks for it."""

    def __init__(self, rng: random.Random, used: set[str], lexicon: dict[str, tuple[str, ...]], **fixed: str):
        super().__init__(fixed)
        self.rng, self.used, self.lexicon = rng, used, lexicon

    def __missing__(self, slot: str) -> str:
        self[slot] = self.expand(self.pick(self.lexicon[slot]))
        return self[slot]

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options, if possible one that this review has not used."""
        option = self.rng.choice(options)
        if option in self.used:
            fresh = [option for option in options if option not in self.used]
            option = self.rng.choice(fresh or [option for option in options if option not in self.values()])
        self.used.add(option)
        return option

    def expand(self, template: str) -> str:
        return _CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), template).format_map(self)


def _agreement(noun: str, rng: random.Random, is_person: bool) -> dict[str, str]:
    which = "who" if is_person else "which"
    if noun.startswith("+"):
        return {"noun": noun[1:], "was": "were", "it": "they", "them": "them", "his": "their", "which": which}
    if not is_person:
        return {"noun": noun, "was": "was", "it": "it", "them": "it", "his": "its", "which": which}
    if noun in WOMEN or (noun not in MEN and rng.random() < 0.5):
        return {"noun": noun, "was": "was", "it": "she", "them": "her", "his": "her", "which": which}
    return {"noun": noun, "was": "was", "it": "he", "them": "him", "his": "his", "which": which}


def _walk(
    rng: random.Random, names: tuple[str, ...], start: tuple, transitions: tuple, length: int
) -> tuple[str, ...]:
    steps = rng.choices(range(len(names)), start)
    while len(steps) < length:
        steps += rng.choices(range(len(names)), transitions[steps[-1]])
    return tuple(names[step] for step in steps)


_PERSONS = {
    "I": {"I": "I", "me": "me", "my": "my", "I_was": "I was", "I_am": "I'm"},
    "we": {"I": "we", "me": "us", "my": "our", "I_was": "we were", "I_am": "we're"},
}
_ASPECT_NOUNS = {"location": LOCATION_NOUNS, "waiting": WAITING_NOUNS}


def _write_sentence(
    rng: random.Random,
    used: set[str],
    name: str,
    person: str,
    factors: tuple[str, str, str],
    previous_sentiment: str | None,
    is_last: bool,
) -> str:
    """One sentence about `factors` (aspect, sentiment, register). `used`: what the review has said already."""
    aspect, sentiment, register = factors
    business = BUSINESSES[name]
    topic = business["kind"] if aspect == "product" else aspect
    adjectives = ADJECTIVES[topic][sentiment]
    lexicon = {**business, **adjectives, "adj2": adjectives["adj"], "when": WHEN, "landmark": LANDMARKS}
    while True:  # until the length is right; the factors stay, so the chains are not touched
        words = _Words(rng, set(used), lexicon, thing=name, place=f"this {name}", **_PERSONS[person])
        noun = words.pick(_ASPECT_NOUNS.get(aspect) or business[aspect])
        words.update(_agreement(noun, rng, aspect == "service"))
        if aspect == "price":
            words["deal"], *prices = rng.choice(business["deals"])
            words["low"], words["usual_price"], words["high"] = (f"${rng.choice(pair)}" for pair in prices)

        turn, opening = (previous_sentiment, sentiment), ""
        if turn in BACK_REFERENCES and rng.random() < BACK_REFERENCE_RATE:
            template = "~" + words.pick(BACK_REFERENCES[turn][register])
        else:
            templates = FRAMES if rng.random() < FRAME_RATE else CLAUSES[topic]
            template = words.pick(templates[sentiment][register])
        if not template.startswith("~"):
            if previous_sentiment is None and rng.random() < INTRODUCTION_RATE:
                opening = words.expand(words.pick(INTRODUCTIONS[register])) + " "
                words["place"] = "it"
            elif previous_sentiment is not None and rng.random() < CONNECTIVE_RATE:
                opening = words.pick(CONNECTIVES[turn][register]) + " "
        if previous_sentiment is not None:
            words["place"] = rng.choice(("the place", "this place", f"the {name}"))

        sentence = opening + words.expand(template.removeprefix("~"))
        if "," not in template and "?" not in template:
            if is_last and rng.random() < CLOSING_RATE:
                sentence += words.expand(words.pick(CLOSINGS[sentiment][register]))
            elif rng.random() < TAIL_RATE:
                sentence += words.expand(words.pick(TAILS[topic][sentiment]))
        if register == "formal":
            sentence = _write_out(sentence)
        if not sentence.endswith("?"):
            sentence += "!" if rng.random() < EXCLAMATION_RATE[register] and sentiment != "neutral" else "."
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            used |= words.used
            return sentence[0].upper() + sentence[1:]


def _write_review(rng: random.Random) -> Review:
    name = rng.choice(tuple(BUSINESSES))
    person = rng.choice(BUSINESSES[name].get("person", ("I", "we")))
    (length,) = rng.choices(NUM_SENTENCES, NUM_SENTENCES_WEIGHTS)
    aspects = _walk(rng, ASPECTS, ASPECT_START, ASPECT_TRANSITIONS, length)
    sentiments = _walk(rng, SENTIMENTS, SENTIMENT_START, SENTIMENT_TRANSITIONS, length)
    registers = _walk(rng, REGISTERS, REGISTER_START, REGISTER_TRANSITIONS, length)
    used: set[str] = set()
    sentences = tuple(
        _write_sentence(rng, used, name, person, factors, sentiments[i - 1] if i else None, i == length - 1)
        for i, factors in enumerate(zip(aspects, sentiments, registers, strict=True))
    )
    return Review(" ".join(sentences), sentences, aspects, sentiments, registers, name)


def generate_reviews(num_reviews: int = 20_000, seed: int = 0) -> list[Review]:
    """Writes distinct short reviews, each sentence with its aspect, sentiment and register.

    The first reviews do not depend on how many are asked for: `generate_reviews(10)` starts `generate_reviews(100)`.

    Args:
        num_reviews (`int`, *optional*, defaults to 20000): How many reviews to write. No two have the same text.
        seed (`int`, *optional*, defaults to 0): The same seed gives the same reviews, on every machine.

    Returns:
        `list[Review]`: The reviews, in an order that says nothing (any slice is a fair sample).

    Raises:
        ValueError: If `num_reviews` is not an integer >= 1 or `seed` not an integer >= 0.

    Example:

    ```python
    >>> from modeling_trace.data.reviews import generate_reviews

    >>> review = generate_reviews(num_reviews=4, seed=0)[-1]
    >>> review.business
    'bakery'
    >>> for aspect, sentiment, sentence in zip(review.aspects, review.sentiments, review.sentences):
    ...     print(f"{aspect:12}{sentiment:10}{sentence}")
    product     positive  We came to this bakery on recommendation, and the bagels were baked with considerable skill.
    atmosphere  positive  Moreover, it is a pleasure to report that the shop was just right.
    cleanliness neutral   We have neither praise nor complaint regarding the trays.
    price       negative  Worse, the final price was, in our opinion, double what we expected.

    ```
    """
    if not isinstance(num_reviews, int) or num_reviews < 1:
        raise ValueError(f"`num_reviews` must be an integer >= 1, got {num_reviews!r}. Use 20000 as in the demo.")
    if not isinstance(seed, int) or seed < 0:  # random.Random takes None as "anything" and -1 as 1
        raise ValueError(f"`seed` must be an integer >= 0, got {seed!r}. Use 0 as in the demo.")

    rng = random.Random(seed)
    reviews: dict[str, Review] = {}  # by text; a dict keeps the order and drops what was written before
    while len(reviews) < num_reviews:
        review = _write_review(rng)
        reviews.setdefault(review.text, review)
    return list(reviews.values())


def review_dataset(num_reviews: int = 20_000, seed: int = 0) -> "Dataset":
    """The same reviews as a `datasets.Dataset`.

    Args:
        num_reviews (`int`, *optional*, defaults to 20000): How many reviews to write. No two have the same text.
        seed (`int`, *optional*, defaults to 0): The same seed gives the same reviews, on every machine.

    Returns:
        `datasets.Dataset`: Columns `text` and `business` (strings), `sentences`, `aspects`, `sentiments` and
        `registers` (lists of one string per sentence).

    Raises:
        ValueError: As `generate_reviews`.

    Example:

    ```python
    >>> from modeling_trace.data.reviews import review_dataset

    >>> dataset = review_dataset(num_reviews=100)
    >>> dataset.column_names
    ['text', 'sentences', 'aspects', 'sentiments', 'registers', 'business']

    ```
    """
    from datasets import Dataset  # here, because it takes longer to import than the reviews take to write

    reviews = generate_reviews(num_reviews, seed)
    return Dataset.from_dict(
        {field.name: [getattr(review, field.name) for review in reviews] for field in fields(Review)}
    )


__all__ = ["ASPECTS", "REGISTERS", "SENTIMENTS", "Review", "generate_reviews", "review_dataset"]
