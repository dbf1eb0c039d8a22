"""The base class: how weights start, and how they are loaded."""

import importlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file

from .checksums_trace import CHECKSUMS_NAME, WEIGHT_FILES, write_checksums
from .configuration_trace import TraceConfig
from .gaussian_trace import PosteriorNorm
from .latent_entry_trace import LatentInjection
from .loss_trace import LossMixin
from .recurrent_dynamics_trace import PriorNetwork, RecurrentMatrix
from .state_reader_trace import StateNorm


def _sharing() -> Any:
    """`modeling_trace.sharing`, which writes model cards and does not travel; None in the code beside a model."""
    return importlib.import_module("..sharing", __package__) if __package__ == "modeling_trace.models" else None


class TracePreTrainedModel(PreTrainedModel):
    """What Transformers asks of every model, and the start of each kind of weight."""

    config_class = TraceConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = False  # the encoder passes need masks that FlashAttention does not take
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    @property
    def device(self) -> torch.device:
        """Where input goes: the device of the weights, or that to which Accelerate brings those it has put away."""
        device = super().device
        hook = getattr(self.get_input_embeddings(), "_hf_hook", None) if device.type == "meta" else None
        return device if hook is None else torch.device(hook.execution_device)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs) -> Any:
        """
        As in Transformers, from safetensors only; weights that are damaged or do not fit the configuration, and an
        adapter's folder, are one line.
        """
        kwargs.setdefault("use_safetensors", True)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:
            hub = {name: kwargs[name] for name in ("cache_dir", "revision", "subfolder", "token") if name in kwargs}
            if find_adapter_config_file(pretrained_model_name_or_path, **hub) is None:
                raise
            raise ValueError(
                f"'{pretrained_model_name_or_path}' holds an adapter, not a whole model. Load it by "
                f"modeling_trace.load_model('{pretrained_model_name_or_path}') of the package modeling_trace, or by "
                "load_adapter_model of modeling_trace.training to train on."
            ) from None
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise ValueError(
                f"The weights in '{pretrained_model_name_or_path}' have other sizes than its config.json says (see "
                "the report above). Take config.json from where the weights come from, or pass "
                "ignore_mismatched_sizes=True to start those weights anew."
            ) from None
        except Exception as error:
            if type(error).__name__ != "SafetensorError":  # of a package that Transformers brings, not this file
                raise
            raise ValueError(
                f"The weights in '{pretrained_model_name_or_path}' are damaged: {error}. Copy them again, or use an "
                "earlier checkpoint."
            ) from error

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs,
    ) -> None:
        """
        As in Transformers; beside the weights lie SHA256SUMS, which [`load_model`] compares them with, and the model
        card, where this package is imported.
        """
        if is_main_process:
            Path(save_directory, CHECKSUMS_NAME).unlink(missing_ok=True)  # of the weights that are written over
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            write_checksums(save_directory, WEIGHT_FILES)
            if (sharing := _sharing()) is not None:
                sharing.write_card(save_directory, self.config)
        if push_to_hub:
            self.push_to_hub(repo_id or os.path.basename(os.path.abspath(save_directory)), token=kwargs.get("token"))

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """
        As in Transformers, in one commit and with the model's own card, where this package is imported.

        Args:
            repo_id (`str`): `"user/name"`, or `"name"` for one of the user's own.
            **kwargs: of `PreTrainedModel.push_to_hub`: `private`, `token`, `revision`, `commit_message`, ...
        """
        sharing = _sharing()
        return (super().push_to_hub if sharing is None else partial(sharing.push_model, self))(repo_id, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, PosteriorNorm):
            nn.init.constant_(module.bias, module.beta_init)
            if module.kind == "batch":
                nn.init.zeros_(module.running_mean)
                nn.init.ones_(module.running_var)
        elif isinstance(module, ParametrizationList):  # spectral norm. The layer has no weight of its own
            nn.init.normal_(module.original, std=std)
            for vector in module.buffers():  # singular vectors: of the weight before, or of nothing when loading
                nn.init.constant_(vector, vector.shape[0] ** -0.5)
            training = module.training
            for _ in range(15):
                module.train()()  # computing it in training mode is a power iteration
            module.train(training)
        elif isinstance(module, LatentInjection):
            # E[(W_z z)^2] = latent_size std^2 for z ~ N(0, I)
            scale = self.config.latent_init_scale / self.config.latent_size**0.5
            nn.init.normal_(module.weight, std=scale * module.residual_rms)
        elif isinstance(module, (nn.Linear, PriorNetwork)):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RecurrentMatrix) and not nn.utils.parametrize.is_parametrized(module):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, LossMixin):
            # the buffer is in no checkpoint: loading leaves it as it comes
            nn.init.ones_(module.kl_weight)
        elif isinstance(module, StateNorm):
            nn.init.constant_(module.weight, module.scale)
            nn.init.zeros_(module.bias)


__all__ = ["TracePreTrainedModel"]
