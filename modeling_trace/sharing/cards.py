"""
A model card that is written again at every save and keeps what people wrote in it.

Generated parts stand between `<!-- trace:NAME -->` and `<!-- /trace:NAME -->`. A last comment says what was generated,
by fingerprints: what no longer fits its fingerprint, a part or a field of the metadata, was edited by somebody and is
kept, what was taken out stays out, and all text outside the parts is left alone.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import yaml_dump

from ..utils import one_line

CARD_NAME = "README.md"
# Parts in the order in which a reader meets them
ORDER = ("title", "usage", "samples", "training", "latents", "evaluation", "limits", "citation")
_PART = re.compile(r"<!-- trace:(\w+) -->\n(.*?)\n<!-- /trace:\1 -->", re.DOTALL)
_WRITTEN = re.compile(r"\n*<!-- trace-written: (\{.*\}) -->\n*")
# Cards that Transformers and PEFT make up: nobody's words
_TEMPLATES = (
    "generated automatically according to the information the Trainer had access to",
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub",
    "[More Information Needed]",
)


def _fingerprint(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Card:
    """
    A model card in its pieces.

    Args:
        metadata (`dict`): the YAML at its head.
        body (`str`): the Markdown below, with the marked parts.
        fields (`dict[str, str]`): fingerprints of the metadata that were generated.
        parts (`dict[str, str]`): fingerprints of the parts that were generated.
        pushed (`str`, *optional*): fingerprint of people's edits at the last push.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    pushed: str | None = None

    @classmethod
    def read(cls, text: str | None) -> "Card":
        """
        Take a card apart; one that Transformers or PEFT made up is as good as none.

        Raises:
            ValueError: if its metadata are no YAML mapping.
        """
        if not text or any(words in text for words in _TEMPLATES):
            return cls()
        try:
            card = ModelCard(text, ignore_metadata_errors=True)
            metadata = card.data.to_dict()
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(
                f"the metadata at the head of {CARD_NAME} are no YAML: {one_line(error)}. Mend or delete it."
            ) from None
        found = list(_WRITTEN.finditer(card.text))
        written = {}
        if found:
            try:
                written = json.loads(found[-1][1])
            except ValueError:
                written = {}  # edited by hand: all of the card counts as people's
        names = ("fields", "parts", "pushed")
        known = {name: written[name] for name in names if isinstance(written, dict) and name in written}
        return cls(metadata, _WRITTEN.sub("\n", card.text).strip(), **known)

    @property
    def generated(self) -> dict[str, str]:
        """The parts that stand as they were generated."""
        return {name: text for name, text in _PART.findall(self.body) if self.parts.get(name) == _fingerprint(text)}

    @property
    def generated_metadata(self) -> dict[str, Any]:
        """The metadata that stand as they were generated."""
        return {n: v for n, v in self.metadata.items() if self.fields.get(n) == _fingerprint(v)}

    @property
    def edits(self) -> str:
        """A fingerprint of all that people changed, added and took out."""
        generated = self.generated
        words = _PART.sub(lambda found: "" if found[1] in generated else found[0], self.body)
        own = {name: value for name, value in self.metadata.items() if name not in self.generated_metadata}
        there = {name for name, _ in _PART.findall(self.body)}
        gone = sorted({*self.parts} - there), sorted({*self.fields} - {*self.metadata})
        return _fingerprint([words.split(), own, gone])

    @property
    def is_edited(self) -> bool:
        """Whether people changed anything since the last push, or at all where there was none."""
        return self.edits != (self.pushed or Card().edits)

    def update(
        self,
        metadata: Mapping[str, Any],
        parts: Mapping[str, str],
        given: Mapping[str, Any] | None = None,
        outdated: Collection[str] = (),
    ) -> None:
        """
        Write what is known now; what is not known now stays as it was.

        Args:
            metadata (`Mapping`): generated fields.
            parts (`Mapping[str, str]`): generated parts, Markdown, of the names in `ORDER`.
            given (`Mapping`, *optional*): fields that a person gives now: they win over all others.
            outdated (`Collection[str]`, *optional*): parts, and fields of metadata, that are no longer true where they
                stand as they were generated and are not written again now.
        """
        kept = self.generated_metadata
        for name, value in {**metadata, **(given or {})}.items():
            if name in kept or name not in {**self.fields, **self.metadata} or name in (given or {}):
                self.metadata[name] = value
                self.fields[name] = _fingerprint(value)
        standing = self.generated
        for name in outdated:
            if name in kept and name not in metadata:
                del self.metadata[name], self.fields[name]
            if name in standing and name not in parts:
                self.body = self.body.replace(f"<!-- trace:{name} -->\n{standing[name]}\n<!-- /trace:{name} -->", "")
                del self.parts[name]
        for name in ORDER:
            if name in parts:
                self._write_part(name, parts[name].strip(), standing)

    def _write_part(self, name: str, text: str, standing: Collection[str]) -> None:
        marked = f"<!-- trace:{name} -->\n{text}\n<!-- /trace:{name} -->"
        places = {found[1]: found for found in _PART.finditer(self.body)}
        if name in standing:
            start, end = places[name].span()
            self.body = self.body[:start] + marked + self.body[end:]
        elif name in places or name in self.parts:
            return  # edited, or taken out
        else:
            before = [places[other] for other in ORDER[: ORDER.index(name)] if other in places]
            after = [places[other] for other in ORDER[ORDER.index(name) :] if other in places]
            place = before[-1].end() if before else after[0].start() if after else len(self.body)
            pieces = (self.body[:place].strip(), marked, self.body[place:].strip())
            self.body = "\n\n".join(piece for piece in pieces if piece)
        self.parts[name] = _fingerprint(text)

    def write(self) -> str:
        """The card as text."""
        written = {"fields": self.fields, "parts": self.parts, "pushed": self.pushed}
        written = {name: value for name, value in written.items() if value}
        body = re.sub(r"\n{3,}", "\n\n", self.body).strip()
        return f"---\n{yaml_dump(self.metadata)}---\n\n{body}\n\n<!-- trace-written: {json.dumps(written)} -->\n"


def meet(here: Card, there: Card | None) -> Card:
    """
    The card to go on with in a push: that of the folder or that of the Hub, whichever people edited since the last.

    Args:
        here ([`Card`]): of the folder.
        there ([`Card`], *optional*): of the Hub.

    Raises:
        ValueError: if both were edited.
    """
    if there is None or there.edits == here.edits or not there.is_edited:
        return here
    if here.is_edited:
        raise ValueError(
            f"{CARD_NAME} was edited both in the folder and on the Hub. Put the Hub's edits into the folder's "
            "file and delete the Hub's, or delete the folder's."
        )
    there.update(here.generated_metadata, here.generated)
    return there


__all__ = ["CARD_NAME", "ORDER", "Card", "meet"]
