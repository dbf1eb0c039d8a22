"""A processor's files: written beside a model's, and read again."""

import json
import os
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import PROCESSOR_NAME, PushToHubMixin, cached_file, logging

from ..models.configuration_checks_trace import check_config_file
from ..utils import one_line
from .prompt_tokenizer import prompt_tokenizer
from .segmenters import Segmenter

if TYPE_CHECKING:
    from .processor import TraceProcessor

logger = logging.get_logger(__name__)


# What `cached_file` understands of the keywords of `from_pretrained`.
_HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class ProcessorFilesMixin(PushToHubMixin):
    """The part of [`TraceProcessor`] that saves and loads it."""

    if TYPE_CHECKING:  # what it needs of its host
        tokenizer: PreTrainedTokenizerBase
        segmenter: Segmenter | None
        conditional: bool
        separator: str

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


__all__ = ["ProcessorFilesMixin"]
