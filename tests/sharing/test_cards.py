"""Model cards: what is generated, and that people's edits survive every save and push."""

import pytest

from modeling_trace.sharing.cards import Card, meet

PARTS = {"title": "# A", "usage": "## Use\n\none", "limits": "## Limits\n\n- few"}
FIELDS = {"library_name": "transformers", "tags": ["trace"]}


def written(card=None, parts=PARTS, fields=FIELDS, **kwargs):
    card = Card.read(card)
    card.update(fields, parts, **kwargs)
    return card.write()


def pushed(text):
    card = Card.read(text)
    card.pushed = card.edits
    return card.write()


def test_writing_again_changes_nothing_and_new_parts_take_their_places():
    text = written()
    assert written(text) == text and not Card.read(text).is_edited
    more = written(text, {**PARTS, "training": "## Training"})
    assert more.index("## Use") < more.index("## Training") < more.index("## Limits")
    assert "## Training" in written(more)  # what is not known now stays
    assert "## Training" not in written(more, outdated=["training"])
    again = written(written(more, outdated=["training"]), {"training": "## Training\n\nanew"})
    assert "anew" in again


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# A", "# A, by me"),  # inside a part
        ("## Limits\n\n- few", "## Limits\n\n- few, and mine"),
        ("<!-- trace:usage -->", "Words of mine.\n\n<!-- trace:usage -->"),
        ("library_name: transformers", "library_name: mine"),
        ("library_name: transformers\n", ""),
        ("tags:", "license: mit\ntags:"),
        ("- trace\n", "- trace\n- mine\n"),
        ("<!-- trace:limits -->\n## Limits\n\n- few\n<!-- /trace:limits -->\n", ""),  # taken out
    ],
)
def test_edits_survive(before, after):
    text = written()
    assert before in text
    edited = text.replace(before, after)
    new = {"title": "# B", "usage": "## Use\n\ntwo", "limits": "## Limits\n\n- many"}
    again = written(edited, new, {"library_name": "other", "tags": ["new"]})
    assert Card.read(edited).is_edited and Card.read(edited).edits == Card.read(again).edits
    shown = again.partition("<!-- trace-written")[0]
    assert after in shown and (after or before.splitlines()[0] not in shown)
    assert again.count("two") == 1  # all else is brought up to date
    assert written(again, new, {"library_name": "other", "tags": ["new"]}) == again


def test_what_a_person_gives_now_wins():
    text = written(written().replace("tags:", "license: mit\ntags:"), given={"license": "apache-2.0"})
    assert "license: apache-2.0" in text and "license: mit" not in text
    assert "license: apache-2.0" in written(text)


def test_a_card_of_ones_own_is_kept_and_the_libraries_templates_are_not():
    own = "---\nlicense: mit\n---\n\n# Mine\n\nSee below.\n"
    text = written(own)
    assert text.index("See below.") < text.index("# A") and "license: mit" in text
    for template in (
        "[More Information Needed]",
        "This is the model card of a 🤗 transformers model that has been pushed on the Hub.",
    ):
        assert "# X" not in written(f"---\nlibrary_name: peft\n---\n# X\n{template}\n")
    with pytest.raises(ValueError, match="README.md are no YAML.*Mend or delete it"):
        Card.read("---\na: [\n---\n\nText\n")


def test_in_a_push_the_side_that_was_edited_wins():
    first = pushed(written())
    here, there = (first.replace("# A", f"# A {place}") for place in ("here", "there"))
    read = Card.read
    assert "# A there" in meet(read(first), read(there)).write()
    assert "# A here" in meet(read(here), read(first)).write()
    assert "# A here" in meet(read(pushed(here)), read(pushed(here))).write()
    # edited here, pushed, and edited on the Hub, or here, again
    second = pushed(here)
    assert "again" in meet(read(second), read(second.replace("here", "again"))).write()
    assert "again" in meet(read(second.replace("here", "again")), read(second)).write()
    # a run anew in another folder keeps what was written on the Hub, with its own parts
    anew = written(parts={**PARTS, "usage": "## Use\n\ntwo"})
    met = meet(read(anew), read(there)).write()
    assert "# A there" in met and "two" in met
    assert meet(read(anew), None).write() == anew
    with pytest.raises(ValueError, match="edited both in the folder and on the Hub"):
        meet(read(here), read(there))
