"""TraceProcessor: text to `BOS | x_1 | ... | x_T EOS` and back, saved and loaded beside the model."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning
from transformers.utils import PROCESSOR_NAME, PushToHubMixin, cached_file, logging

from ..models.backbones_trace import resolve_backbone
from ..models.configuration_trace import SEPARATORS, check_config_file
from ..models.segments_trace import SegmentRule, add_separator_token
from ..utils import one_line
from .layout import cuts_at_closing, lay_out, segment_ends, segment_texts
from .prompt_tokenizer import prompt_tokenizer
from .segmenters import FixedLengthSegmenter, Segmenter
from .sentences import gives_up
from .validation import check_strings

logger = logging.get_logger(__name__)

PAPER_SEGMENTER = FixedLengthSegmenter(10)
# One row of ids or several
TokenIds = Sequence[int] | Sequence[Sequence[int]] | torch.Tensor | np.ndarray

# What `cached_file` understands of the keywords of `from_pretrained`.
_HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class TraceProcessor(PushToHubMixin):
    """
    A tokenizer and a segmenter: writes a text as `BOS | x_1 | x_2 | ... | x_T EOS`, with `separator="token"` as
    `BOS | x_1 [SEP] | x_2 [SEP] | ... | x_T EOS`, and reads it back.

    With `conditional` every text has a prompt: `BOS prompt [SEP] | x_1 | ... | x_T EOS`.

    The whole text is tokenised once and the tokens are cut, so that without [SEP], BOS and EOS they are exactly the
    tokens that a plain language model sees.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the backbone's tokenizer. Changed in place: a [SEP] token is added where
            it has none, PAD and BOS fall back to EOS. The model's embeddings must be resized to `len(tokenizer)`.
        segmenter ([`Segmenter`], *optional*, defaults to `FixedLengthSegmenter(10)`): where to cut. `None` means a
            plain language model, or one latent for the whole text: no [SEP], the text is one segment.
        conditional (`bool`, *optional*, defaults to `False`): texts have prompts, as in `TraceConfig.conditional`.
        separator (`str`, *optional*, defaults to `"none"`): what closes a segment, as in `TraceConfig.separator`.
            "token": a [SEP] is written. "none": nothing is written; segments of varying length end by a rule over
            tokens ([`~Segmenter.closes`]), in training as in generation.

    Raises:
        ValueError: where segments of varying length have no such rule and `separator="none"`.

    Example:

    ```python
    processor = TraceProcessor(AutoTokenizer.from_pretrained("gpt2"), FixedLengthSegmenter(10))
    inputs = processor(["A first text.", "And another."], padding=True, return_tensors="pt")
    processor.batch_decode(inputs["input_ids"])  # ["A first text.", "And another."]

    stories = TraceProcessor(AutoTokenizer.from_pretrained("gpt2"), SentenceSegmenter(), conditional=True)
    stories(["It rained. We went out."], prompt=["A walk"])  # for training
    stories(prompt=["A walk"], padding=True, return_tensors="pt")  # for generate()
    ```
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        segmenter: Segmenter | None = PAPER_SEGMENTER,
        conditional: bool = False,
        separator: str = "none",
    ):
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"`tokenizer` must be a Transformers tokenizer, got {tokenizer!r:.80}. "
                "With a name or a folder use TraceProcessor.from_backbone(name)."
            )
        if segmenter is not None and not isinstance(segmenter, Segmenter):
            raise ValueError(
                f"`segmenter` must be a Segmenter or None, got {segmenter!r:.80}. For segments of 10 tokens use "
                "FixedLengthSegmenter(10), from a config Segmenter.from_dict(config)."
            )
        if segmenter is not None and segmenter.needs_offsets and not tokenizer.is_fast:
            raise ValueError(
                f"`segmenter` {segmenter!r} cuts at characters and needs a fast tokenizer, got the slow "
                f"{tokenizer.__class__.__name__}. Use FixedLengthSegmenter, or a tokenizer with use_fast=True."
            )
        if tokenizer.eos_token_id is None:
            raise ValueError("`tokenizer` has no EOS token, got eos_token=None. Set tokenizer.eos_token first.")
        if separator not in SEPARATORS:
            raise ValueError(f"`separator` must be 'token' or 'none', got {separator!r}. Use 'token' for [SEP].")
        if separator == "none" and segmenter is not None and segmenter.segment_length is None:
            segmenter.closes("")  # refuses where there is no rule, before the tokenizer is changed
        self.separator = separator
        if conditional or (segmenter is not None and separator == "token"):
            add_separator_token(tokenizer)
        elif tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer
        self.segmenter = segmenter
        self.conditional = conditional
        self._for_generation = False

    def for_generation(self) -> "TraceProcessor":
        """
        The same processor for use where Transformers takes a tokenizer to generate with: a text is the start of one
        (`BOS x_1 | ...`, no EOS), or the prompt of a conditional model (`BOS prompt [SEP]`), and rows are padded on
        the left.

        Example:

        ```python
        writer = pipeline("text-generation", model=model, tokenizer=processor.for_generation())
        writer("The food", max_new_tokens=20)[0]["generated_text"]
        ```
        """
        other = copy.copy(self)
        other._for_generation = True
        return other

    @property
    def padding_side(self) -> str:
        """The side of complete texts ("right"), or of starts of texts ("left") after `for_generation()`."""
        return "left" if self._for_generation else "right"

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        if side != self.padding_side:
            raise ValueError(
                f"`padding_side` is {self.padding_side!r} here and cannot be set, got {side!r}. To generate with it, "
                "as pipelines do, pass processor.for_generation()."
            )

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | os.PathLike,
        segmenter: Segmenter | None = PAPER_SEGMENTER,
        conditional: bool = False,
        separator: str = "none",
        **kwargs,
    ) -> "TraceProcessor":
        """
        A processor for a backbone's own tokenizer.

        Args:
            name_or_path (`str` or `os.PathLike`): a Hub id, a folder, a GGUF file or `"smollm2-135m"`, as for
                [`~TraceForConditionalGeneration.from_backbone`].
            segmenter ([`Segmenter`], *optional*, defaults to `FixedLengthSegmenter(10)`): where to cut.
            conditional (`bool`, *optional*, defaults to `False`): whether texts have prompts.
            separator (`str`, *optional*, defaults to `"none"`): as in `TraceConfig.separator`.
            kwargs: passed to `AutoTokenizer.from_pretrained`.
        """
        path, gguf = resolve_backbone(name_or_path)
        return cls(AutoTokenizer.from_pretrained(path, **gguf, **kwargs), segmenter, conditional, separator)

    # what the Trainer, the pipelines and the model need to know

    @property
    def bos_token_id(self) -> int:
        """The token that starts every text: BOS, or EOS for tokenizers without one, as GPT-2 does."""
        bos_token_id = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos_token_id is None else bos_token_id

    @property
    def eos_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def sep_token_id(self) -> int | None:
        """The token that closes a segment, or a prompt; `None` where there is neither."""
        written = self.segmenter is not None and self.separator == "token"
        return self.tokenizer.sep_token_id if written or self.conditional else None

    @property
    def segment_length(self) -> int | None:
        """Tokens per segment where all are equal, for `TraceConfig.segment_length`; else `None`."""
        return None if self.segmenter is None else self.segmenter.segment_length

    @cached_property
    def closing_token_ids(self) -> list[int] | None:
        """
        For `TraceConfig.closing_token_ids`: the tokens whose text ends as the segmenter says that a segment does, with
        `separator="none"` and segments of varying length; else `None`.
        """
        if self.separator == "token" or self.segmenter is None or self.segmenter.segment_length is not None:
            return None
        control = self.control_token_ids
        pieces = self.tokenizer.batch_decode([[index] for index in range(len(self.tokenizer))])
        ends = self.segmenter.closes
        found = [index for index, piece in enumerate(pieces) if index not in control and ends(piece)]
        if not found:
            raise ValueError(
                f"`separator='none'` needs tokens that end a segment, the tokenizer has none for {self.segmenter!r}. "
                "Use separator='token'."
            )
        return found

    @property
    def cuts_texts(self) -> bool:
        """Whether the segmenter looks at texts: not where segments end by a rule over tokens."""
        return self.segmenter is not None and (self.separator == "token" or self.segment_length is not None)

    @property
    def segment_rule(self) -> SegmentRule:
        """Where segments end, as the model knows it."""
        closing = self.closing_token_ids
        return SegmentRule(
            self.sep_token_id,
            self.bos_token_id,
            self.conditional,
            self.segmenter is None,
            self.separator,
            self.segment_length,
            None if closing is None else tuple(closing),
        )

    def has_one_segment(self, ids: list[int]) -> bool:
        """Whether all the text of a row of ids is one segment."""
        return len(self._segment_ends(ids, keep_empty=False)[1]) <= 1

    def _segment_ends(self, ids: list[int], keep_empty: bool) -> tuple[list[int], list[int]]:
        closes = self.segment_rule.closes(torch.tensor([ids], dtype=torch.long)).tolist()[0]
        start = len(self._split_prompt(ids)[0])
        return segment_ends(ids[start:], closes[start:], self.control_token_ids, keep_empty)

    @property
    def control_token_ids(self) -> set[int]:
        """BOS, [SEP], EOS and PAD: the ids that give the layout, and so must not come from a text."""
        control = {self.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.sep_token_id}
        if self.tokenizer.pad_token_id != self.tokenizer.unk_token_id:  # a rare word is no padding
            control.add(self.tokenizer.pad_token_id)
        return control - {None}

    # text to ids

    def __call__(
        self,
        text: str | list[str] | None = None,
        *,
        prompt: str | list[str] | None = None,
        add_eos: bool | None = None,
        max_length: int | None = None,
        padding: bool | str = False,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """
        Tokenise, cut into segments, add BOS, [SEP] and EOS.

        Args:
            text (`str` or `list[str]`, *optional*): one text or several. Left out, with `prompt` alone, for
                generation: `BOS prompt [SEP]`.
            prompt (`str` or `list[str]`, *optional*): the prompt of each text, for a conditional processor.
            add_eos (`bool`, *optional*): whether the text is complete, which it is where left out. False for starts of
                texts: the last segment stays open (no [SEP], no EOS), `generate()` goes on with it. Without `text`,
                and in a processor made by [`~TraceProcessor.for_generation`], False where left out.
            max_length (`int`, *optional*): longest result in tokens, BOS, [SEP] and EOS included. Longer texts lose
                whole segments at their end. They keep the [SEP] of their last segment, which did close, and get no
                EOS, since they did not end. Only where not even the first segment fits is it cut inside. Prompts
                are kept whole.
            padding (`bool` or `str`, *optional*, defaults to `False`): True or `"longest"` pads to the longest text,
                `"max_length"` to `max_length`; on the right for complete texts, on the left for prompts.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            `BatchEncoding` with `input_ids` and `attention_mask`: lists, or tensors of shape
            `(batch_size, sequence_length)`.

        Raises:
            ValueError: a row that is not a string, holds no token, or holds a control token such as [SEP] as text; a
                prompt without a conditional processor, or the reverse; a prompt that leaves no room for a text.
        """
        if self._for_generation and text is not None and prompt is None and self.conditional:
            text, prompt = None, text  # a pipeline has one name for what is to be continued
        self._check_prompts(text, prompt)
        if add_eos is None:
            add_eos = not self._for_generation
        if text is None:
            single, add_eos = isinstance(prompt, str), False
            prompts = [prompt] if isinstance(prompt, str) else list(prompt)
            rows = self.encode_rows(None, prompts=prompts, max_length=max_length)
            return self._batch(rows, single, add_eos, max_length, padding, return_tensors)
        single = isinstance(text, str)
        if not single and (isinstance(text, (Mapping, bytes)) or not hasattr(text, "__iter__")):
            raise ValueError(
                f"`text` must be a string or a list of strings, got {type(text).__name__}. "
                "With a data set pass dataset['text'], or use prepare_dataset."
            )
        prompts = None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        rows = self.encode_rows(
            [text] if isinstance(text, str) else list(text), prompts=prompts, add_eos=add_eos, max_length=max_length
        )
        return self._batch(rows, single, add_eos, max_length, padding, return_tensors)

    def _check_prompts(self, text, prompt) -> None:
        if text is None and prompt is None:
            raise ValueError("`text` is needed, got None." + (" Or `prompt` alone." if self.conditional else ""))
        if prompt is not None and not self.conditional:
            raise ValueError(
                "`prompt` is for a conditional processor, and this one is not. Make it with conditional=True, and the "
                "model too; to continue a text without that, pass the start of it as `text` with add_eos=False."
            )
        if prompt is None and self.conditional:
            raise ValueError("`prompt` is needed by a conditional processor, got None. Give each text its prompt.")
        if text is not None and isinstance(text, str) != isinstance(prompt, str) and prompt is not None:
            raise ValueError("`text` and `prompt` must both be strings, or both lists.")

    def _batch(self, rows, single, add_eos, max_length, padding, return_tensors) -> BatchEncoding:
        if padding:
            if padding == "max_length" and max_length is None:
                raise ValueError("`padding='max_length'` needs `max_length`, got None. Use padding=True.")
            encoded = pad_without_fast_tokenizer_warning(
                self.tokenizer,
                {"input_ids": rows},
                padding=padding,
                max_length=max_length if padding == "max_length" else None,
                padding_side="right" if add_eos else "left",
                return_attention_mask=True,
            )
            encoded = {name: encoded[name] for name in self.model_input_names}
        else:
            if return_tensors is not None and len({len(row) for row in rows}) > 1:
                raise ValueError(
                    f"`padding` must be on for a tensor of texts of unequal lengths, got padding={padding!r}. "
                    "Use padding=True."
                )
            encoded = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        if single and return_tensors is None:
            encoded = {name: values[0] for name, values in encoded.items()}
        return BatchEncoding(encoded, tensor_type=return_tensors)

    def encode(self, text: str | list[str] | None = None, **settings) -> list[int] | list[list[int]]:
        """The `input_ids` of [`~TraceProcessor.__call__`], with the same arguments; as a tokenizer's `encode`."""
        return self(text, **settings)["input_ids"]

    def encode_rows(
        self,
        texts: list[str] | None,
        *,
        prompts: list[str] | None = None,
        add_eos: bool = True,
        max_length: int | None = None,
        first_row: int = 0,
    ) -> list[list[int]]:
        """
        The ids of each text, as lists; arguments as for [`~TraceProcessor.__call__`].

        Args:
            first_row (`int`, *optional*, defaults to 0): the number of the first text in the data set, for errors.
        """
        if max_length is not None and (not isinstance(max_length, int) or max_length < 2):
            raise ValueError(f"`max_length` must be an integer >= 2 (BOS and one token), got {max_length!r}.")
        prefixes = None
        if prompts is not None:
            if texts is not None and len(prompts) != len(texts):
                raise ValueError(f"`prompt` must have one row per text, got {len(prompts)} for {len(texts)} texts.")
            tokens = self._tokenize("prompt", prompts, first_row, "Filter such rows out first.")
            prefixes = [[self.bos_token_id, *ids, self.tokenizer.sep_token_id] for ids in tokens["input_ids"]]
            for row, (prompt, prefix) in enumerate(zip(prompts, prefixes, strict=True), first_row):
                if max_length is not None and len(prefix) >= max_length:
                    raise ValueError(
                        f"`prompt` leaves no room for text, got {len(prefix)} tokens in row {row} with `max_length` "
                        f"{max_length}: {prompt[:30]!r}. Raise max_length, or shorten the prompt."
                    )
        if texts is None:
            return prefixes
        if not texts:
            return []

        needs_offsets = self.segmenter is not None and self.segmenter.needs_offsets
        tokens = self._tokenize(
            "text",
            texts,
            first_row,
            _no_text(add_eos),
            return_offsets_mapping=needs_offsets,
            verbose=max_length is None,  # else it warns of long texts that are cut below
        )
        # asked for once: a tokenizer looks up the id of a special token each time
        bos, sep = [self.bos_token_id], [self.tokenizer.sep_token_id] if self.separator == "token" else []
        closing = None if self.closing_token_ids is None else set(self.closing_token_ids)
        eos = [self.tokenizer.eos_token_id] if add_eos else []
        rows = []
        for index, (text, ids) in enumerate(zip(texts, tokens["input_ids"], strict=True)):
            row = first_row + index
            cuts = []
            if closing is not None:
                cuts = cuts_at_closing(ids, closing)
            elif self.segmenter is not None:
                offsets = tokens["offset_mapping"][index] if needs_offsets else [None] * len(ids)
                try:
                    cuts = self.segmenter.cut(text, offsets)
                except TimeoutError:  # of a regular expression that would take minutes
                    raise ValueError(gives_up("text", text, row)) from None
                if any(start >= end for start, end in pairwise([0, *cuts, len(ids)])):
                    raise ValueError(
                        f"`segmenter` must cut at increasing indices between 1 and {len(ids) - 1}, got {cuts} from "
                        f"{self.segmenter!r} in row {row}."
                    )
            rows.append(lay_out(bos if prefixes is None else prefixes[index], ids, cuts, sep, eos, max_length))
        return rows

    def _tokenize(self, name: str, texts: list[str], first_row: int, remedy: str, **kwargs) -> BatchEncoding:
        """The plain tokens of each text, after checking that they are some, and no structure."""
        check_strings(name, texts, first_row, remedy)
        if not texts:
            return BatchEncoding({"input_ids": []})
        tokens = self.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, **kwargs
        )
        control = self.control_token_ids
        for row, (text, ids) in enumerate(zip(texts, tokens["input_ids"], strict=True), first_row):
            if not ids:
                raise ValueError(f"`{name}` has no token, got {text!r:.40} in row {row}. {remedy}")
            found = control.intersection(ids)
            if found:
                token = self.tokenizer.convert_ids_to_tokens(found.pop())
                raise ValueError(
                    f"`{name}` must not hold the control token '{token}', got it in row {row}: the model would read "
                    f"it as structure. Take it out first, e.g. {name}.replace('{token}', ' ')."
                )
        return tokens

    # ids to text

    def decode(
        self,
        ids: TokenIds,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str | list[str]:
        """
        The text of one row of ids (a list of texts for several rows), without BOS, [SEP], EOS and PAD, and without its
        prompt ([`~TraceProcessor.decode_prompt`] gives that).

        Unknown-word tokens are part of the text and stay. `skip_special_tokens=False` shows every token.

        Args:
            ids (`list[int]`, array or tensor): a row from this processor or from `generate()`.
            skip_special_tokens (`bool`, *optional*, defaults to `True`): see above.
            clean_up_tokenization_spaces (`bool`, *optional*): taken for the sake of pipelines and never done: texts
                are as they were generated.
        """
        ids = _to_list(ids)
        if ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens) for row in ids]  # type: ignore[misc]
        if skip_special_tokens:
            control = self.control_token_ids
            ids = self._split_prompt(ids)[1]
            ids = [token for token in ids if token not in control]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def batch_decode(self, sequences: TokenIds, skip_special_tokens: bool = True) -> list[str]:
        """[`~TraceProcessor.decode`] for every row."""
        return [self.decode(row, skip_special_tokens) for row in _to_list(sequences)]  # type: ignore[misc]

    def _split_prompt(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """The ids up to the first [SEP], that one included, and the others; a row without prompt is all text."""
        if not self.conditional or self.sep_token_id not in ids:
            return [], ids
        end = ids.index(self.sep_token_id) + 1
        return ids[:end], ids[end:]

    def decode_prompt(self, ids: TokenIds) -> str | list[str]:
        """The prompt of one row of ids (a list for several rows) from a conditional processor or model."""
        ids = _to_list(ids)
        if ids and isinstance(ids[0], list):
            return [self.decode_prompt(row) for row in ids]  # type: ignore[misc]
        control = self.control_token_ids
        prompt = [token for token in self._split_prompt(ids)[0] if token not in control]
        return self.tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def split(self, ids: TokenIds) -> list[str]:
        """
        The text of each segment of one row of ids, in order; joined, they are `decode(ids)`.

        A segment without tokens between two [SEP] gives an empty string, so that places match those of the latents.

        Args:
            ids (`list[int]`, array or tensor): a row from this processor or from `generate()`.
        """
        ids = _to_list(ids)
        if ids and isinstance(ids[0], list):
            raise ValueError(
                f"`ids` must be one row of ids, got {len(ids)} rows. Use [processor.split(row) for row in ids]."
            )
        return segment_texts(self.tokenizer, *self._segment_ends(ids, keep_empty=self.separator == "token"))

    # padding, saving, loading

    def pad(self, encoded_inputs: Any, **kwargs) -> BatchEncoding:
        """The tokenizer's own `pad`."""
        return pad_without_fast_tokenizer_warning(self.tokenizer, encoded_inputs, **kwargs)

    def to_dict(self) -> dict:
        """What `processor_config.json` holds."""
        return {
            "processor_class": self.__class__.__name__,
            "segmenter": None if self.segmenter is None else self.segmenter.to_dict(),
            "conditional": self.conditional,
            "separator": self.separator,
        }

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, push_to_hub: bool = False, repo_id: str | None = None, **kwargs
    ) -> tuple[str, ...]:
        """
        Save tokenizer and segmenter, to be loaded with [`~TraceProcessor.from_pretrained`]; the model may be saved in
        the same folder. `AutoTokenizer.from_pretrained` reads the tokenizer from there as well, and makes prompts with
        it as this processor does ([`prompt_tokenizer`]).

        Args:
            save_directory (`str` or `os.PathLike`): the folder; made where it does not exist.
            push_to_hub (`bool`, *optional*, defaults to `False`): whether to push to the Hub as well.
            repo_id (`str`, *optional*): the repository to push to; named after the folder where left out.
            kwargs: passed to `push_to_hub`.

        Returns:
            `tuple[str, ...]`: the files written.
        """
        if os.path.isfile(save_directory):
            raise ValueError(f"`save_directory` must be a folder, got the file '{save_directory}'.")
        os.makedirs(save_directory, exist_ok=True)
        tokenizer = prompt_tokenizer(self.tokenizer, self.bos_token_id, self.conditional)
        files = tokenizer.save_pretrained(save_directory)
        path = os.path.join(save_directory, PROCESSOR_NAME)
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        logger.info(f"Processor saved in {path}")
        if push_to_hub:
            self.push_to_hub(repo_id or os.path.basename(os.path.abspath(save_directory)), **kwargs)
        return (*files, path)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """
        Push tokenizer and segmenter to the Hub, in one commit; a model card that is there stays as it is.

        Args:
            repo_id (`str`): that of the model.
            kwargs: `private`, `token`, `revision`, `commit_message` and others of `create_commit`.
        """
        from ..sharing import push_processor  # which imports this module

        return push_processor(self, repo_id, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "TraceProcessor":
        """
        Load a processor saved by [`~TraceProcessor.save_pretrained`].

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): a folder or a Hub id.
            kwargs: passed to `AutoTokenizer.from_pretrained` (`revision`, `token`, `cache_dir`, ...).
        """
        name = pretrained_model_name_or_path
        if not os.path.isdir(name) and str(name).startswith((".", "/", "~")):
            raise ValueError(
                f"`pretrained_model_name_or_path` must be a folder or a Hub id, found no folder '{name}'."
            )
        remedy = f"With the tokenizer of a backbone use TraceProcessor.from_backbone('{name}', segmenter)."
        try:
            hub_kwargs = {key: value for key, value in kwargs.items() if key in _HUB_KEYWORDS}
            with open(cached_file(name, PROCESSOR_NAME, **hub_kwargs), encoding="utf-8") as file:
                values = json.load(file)
        except OSError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"`{name}` must hold a saved TraceProcessor: {reason} {remedy}") from error
        except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
            raise ValueError(f"The file {PROCESSOR_NAME} of '{name}' is no JSON: {one_line(error)}.") from None
        if not isinstance(values, dict) or "segmenter" not in values:
            got = values.get("processor_class") if isinstance(values, dict) else type(values).__name__
            got = f"{got or 'processor of another kind'!s:.80}"
            raise ValueError(f"`{name}` must hold a saved TraceProcessor, got a {got}. {remedy}")
        check_config_file(name)  # of the model beside it, where AutoTokenizer looks
        segmenter = None if values["segmenter"] is None else Segmenter.from_dict(values["segmenter"])
        settings = {key: values[key] for key in ("conditional", "separator") if key in values}
        return cls(AutoTokenizer.from_pretrained(name, **kwargs), segmenter, **settings)

    def __repr__(self):
        tokenizer = f"{self.tokenizer.__class__.__name__}(vocab_size={len(self.tokenizer)})"
        conditional = ", conditional=True" if self.conditional else ""
        separator = ", separator='token'" if self.separator == "token" else ""
        return (
            f"{self.__class__.__name__}(tokenizer={tokenizer}, segmenter={self.segmenter!r}{conditional}{separator})"
        )


def _no_text(add_eos: bool) -> str:
    if add_eos:
        return "Filter such rows out first."
    return "To generate without a prompt call generate() without input_ids."


def _to_list(ids) -> list:
    """Lists, tuples, arrays and tensors as lists of numbers, or of lists of numbers."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    return [_to_list(row) if hasattr(row, "__iter__") else int(row) for row in ids]


__all__ = ["TraceProcessor"]
