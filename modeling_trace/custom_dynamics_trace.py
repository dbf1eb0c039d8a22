"""Users' own dynamics beside a saved model: what `save_pretrained` writes and what `from_pretrained` may run."""

import ast
import inspect
import re
import sys
from pathlib import Path

from torch import nn
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import (
    get_cached_module_file,
    get_class_in_module,
    get_relative_import_files,
)
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging

from .configuration_trace import LATENT_DYNAMICS_VALUES, TraceConfig
from .dynamics_trace import LATENT_DYNAMICS, SOURCES, register_class

logger = logging.get_logger(__name__)

PACKAGE = "modeling_trace"
_DOWNLOAD_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def _from_checkpoint(cls) -> bool:
    return cls.__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME + ".")


def needs_remote_code(latent_dynamics: str) -> bool:
    """
    Whether the class of these dynamics is not here. One that came with another model does not count: two models may
    give one name to different classes.
    """
    if latent_dynamics in LATENT_DYNAMICS_VALUES:
        return False
    return latent_dynamics not in LATENT_DYNAMICS or _from_checkpoint(LATENT_DYNAMICS[latent_dynamics])


def _own_modules() -> set[str]:
    """The modules of this package that `save_pretrained` writes beside every model."""
    model_file = Path(__file__).with_name("modeling_trace.py")
    return {model_file.stem, *(Path(file).stem for file in get_relative_import_files(model_file))}


def portable_source(cls: type[nn.Module]) -> tuple[str, dict[str, str]] | None:
    """
    Users' own dynamics as files that can lie beside a saved model, with imports from this package made relative.

    Args:
        cls: a registered class.

    Returns:
        `"<module>.<class>"`, as in `config.auto_map`, and the text of each file by its name; None when no file defines
        the class such that it can be imported from there: a script, a notebook, a class made in a function.

    Raises:
        ValueError: when the module imports what will not be beside the model.
    """
    module = sys.modules.get(cls.__module__)
    importable = cls.__module__ != "__main__" and inspect.isclass(getattr(module, cls.__qualname__, None))
    if not importable or cls not in SOURCES:
        return None
    own = _own_modules()
    stem = re.sub(r"\W", "_", cls.__module__.rpartition(".")[2])
    if stem in own:  # the file must not take the place of the package's own
        stem = f"user_{stem}"
    files = {f"{stem}.py": _relative_imports(SOURCES[cls], module.__file__, own, _from_checkpoint(cls))}
    if _from_checkpoint(cls):  # its author may have put more files there, by hand
        others = (Path(file) for file in get_relative_import_files(module.__file__))
        files |= {path.name: path.read_text(encoding="utf-8") for path in others if path.stem not in own}
    return f"{stem}.{cls.__name__}", files


def _relative_imports(text: str, file: str, own: set[str], from_checkpoint: bool) -> str:
    """`text` with its imports from this package as `from .x_trace import y`, the form that Transformers follows."""
    file = Path(file).name
    lines = text.split("\n")
    others = set()
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        before = lines[node.lineno - 1].encode()[: node.col_offset].decode()
        after = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        statement = ast.unparse(node)
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
            if PACKAGE in roots:
                raise _import_error(file, statement, f"Write from {PACKAGE}.dynamics_trace import LatentDynamics")
            others |= roots
            continue
        if node.level:
            if not from_checkpoint:
                raise _import_error(file, statement, f"Put what it imports into {file} itself")
            continue
        root, _, rest = node.module.partition(".")
        if root != PACKAGE:
            others.add(root)
            continue
        if before.strip():
            raise _import_error(file, statement, "Write it on a line of its own")
        names_by_module = {}
        for alias in node.names:
            home = rest or getattr(getattr(sys.modules.get(PACKAGE), alias.name, None), "__module__", "")
            home = home.removeprefix(f"{PACKAGE}.")
            if home not in own:
                raise _import_error(
                    file, statement, "Import from its *_trace modules only, or write what is needed into the file"
                )
            names_by_module.setdefault(home, []).append(ast.unparse(alias))
        new = [f"{before}from .{home} import {', '.join(names)}" for home, names in names_by_module.items()]
        new[-1] += after
        lines[node.lineno - 1 : node.end_lineno] = new
    others -= {"torch", "transformers", "numpy", *sys.stdlib_module_names}
    if others and not from_checkpoint:
        logger.warning_once(
            f"`{file}`, which goes with the model, imports {', '.join(sorted(others))}: whoever loads the model must "
            f"have that installed. What is your own should be in {file} itself."
        )
    return "\n".join(lines)


def _import_error(file, statement, remedy):
    return ValueError(
        f"`{statement}` in {file}, which defines the model's latent dynamics, cannot go with a saved model. {remedy}."
    )


def load_latent_dynamics(name: str, reference: str, folder: str, **kwargs) -> type[nn.Module]:
    """
    Run the file beside a saved model that defines its dynamics, and register the class. Only for trusted models.

    Args:
        name (`str`): the value of `latent_dynamics`.
        reference (`str`): `"<module>.<class>"`, as `config.auto_map["LatentDynamics"]` has it.
        folder (`str`): the folder or Hub id of the model.
        **kwargs: where and how to look: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`,
            `proxies`.

    Note: The file imports its base class from `.dynamics_trace`, of which Transformers would run one more copy, with a
    registry and classes of its own. It gets the modules that are running here instead.
    """
    repo, _, name_in_repo = str(reference).rpartition("--")
    parts = name_in_repo.split(".")
    if len(parts) != 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"`auto_map['LatentDynamics']` of {folder} must name a file and a class, as in 'my_dynamics.RandomWalk', "
            f"got {reference!r}. Correct its config.json."
        )
    if repo and repo != str(folder):
        kwargs.pop("revision", None)  # that of the model, not of the repository that its code is in
    stem, class_name = parts
    file = get_cached_module_file(repo or folder, f"{stem}.py", **kwargs)
    beside = ".".join(Path(file).parent.parts)
    here = __name__.rpartition(".")[0]
    running = {f"{beside}.{own}": sys.modules.get(f"{here}.{own}") for own in _own_modules()}
    running = {module_name: module for module_name, module in running.items() if module is not None}
    before = {module_name: sys.modules.get(module_name) for module_name in running}
    registered = dict(LATENT_DYNAMICS)
    sys.modules.update(running)
    try:
        cls = get_class_in_module(class_name, file, force_reload=kwargs.get("force_download", False))
    except AttributeError as error:
        raise ValueError(
            f"`auto_map['LatentDynamics']` of {folder} names {reference}, and that file could not be run: {error}."
        ) from error
    finally:
        for module_name, module in before.items():
            if module is None:
                del sys.modules[module_name]
            else:
                sys.modules[module_name] = module
        LATENT_DYNAMICS.update(registered)  # a model's file does not replace what is registered here
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(
            f"`auto_map['LatentDynamics']` of {folder} must name a subclass of LatentDynamics, got {cls!r:.80}."
        )
    register_class(name, cls)
    return cls


def check_own_dynamics(dynamics: nn.Module) -> None:
    """Say when a model is built what would be lost, or fail, when it is saved."""
    lost = {name for name, _ in dynamics.named_buffers()} - dynamics.state_dict().keys()
    if lost:
        raise ValueError(
            f"`{type(dynamics).__name__}` has the buffer `{min(lost)}` with persistent=False, which "
            "holds anything after loading. Register it with persistent=True."
        )
    try:
        portable_source(type(dynamics))
    except ValueError as error:  # at the end of training it would be late to hear of it
        logger.warning_once(f"{error} Until then save_pretrained, and the Trainer's, will fail.")


class CustomDynamicsMixin:
    """The part of [`TracePreTrainedModel`] that saves and loads users' own dynamics with a model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """
        As in Transformers; with `trust_remote_code=True` also for a model whose dynamics are a user's own, which no
        module here registers: the file that defines them, beside the model, is then run.
        """
        cls._find_dynamics(pretrained_model_name_or_path, config, kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

    @staticmethod
    def _find_dynamics(folder, config, kwargs):
        download = {name: kwargs[name] for name in _DOWNLOAD_ARGUMENTS if name in kwargs}
        subfolder = kwargs.get("subfolder") or ""
        if isinstance(config, PreTrainedConfig):
            values = {name: getattr(config, name, None) for name in ("latent_dynamics", "auto_map")}
        else:
            try:
                values, _ = PreTrainedConfig.get_config_dict(config or folder, subfolder=subfolder, **download)
            except OSError:  # said better where the model is loaded
                return
        name = kwargs.get("latent_dynamics", values.get("latent_dynamics")) or TraceConfig.latent_dynamics
        reference = (values.get("auto_map") or {}).get("LatentDynamics")
        if reference is None or not needs_remote_code(name):
            return
        if not kwargs.get("trust_remote_code"):
            raise ValueError(
                f"`latent_dynamics='{name}'` is a user's own, whose code ({reference}) is in {folder}. Import the "
                "module that registers it, or read that code and pass trust_remote_code=True."
            )
        inside = Path(folder) / subfolder
        load_latent_dynamics(name, reference, str(inside if inside.is_dir() else folder), **download)

    def save_pretrained(self, save_directory, is_main_process=True, *args, **kwargs):
        """As in Transformers; with the file that defines the model's dynamics, if they are a user's own."""
        files = self._name_dynamics()
        self._dynamics_files = set(files)
        if is_main_process and not Path(save_directory).is_file():
            for name, text in files.items():
                Path(save_directory).mkdir(parents=True, exist_ok=True)
                (Path(save_directory) / name).write_text(text, encoding="utf-8")
        return super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    def _name_dynamics(self) -> dict[str, str]:
        """Enter a user's own dynamics in `config.auto_map`; the files that define them, by name."""
        auto_map = dict(getattr(self.config, "auto_map", None) or {})
        auto_map.pop("LatentDynamics", None)
        files = {}
        if self.own_dynamics is not None:
            source = portable_source(self.own_dynamics)
            if source is None:
                logger.warning(
                    f"`latent_dynamics='{self.config.latent_dynamics}'` is saved without its code: "
                    f"{self.own_dynamics.__qualname__} is defined where it cannot be imported from. To load the "
                    "model, register the class first. To save it too, move the class to a file and import that."
                )
            else:
                auto_map["LatentDynamics"], files = source
        self.config.auto_map = auto_map
        return files

    def _get_files_timestamps(self, working_dir):
        # save_pretrained(push_to_hub=True) uploads what is newer than this: the dynamics' files were written before
        times = super()._get_files_timestamps(working_dir)
        return {name: time for name, time in times.items() if name not in self._dynamics_files}


__all__ = ["load_latent_dynamics", "needs_remote_code", "portable_source"]
