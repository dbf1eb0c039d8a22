"""Out to the world: the model card, and pushing to the Hub what a stranger needs and nothing else."""

from .cards import Card
from .objects import push_folder, push_model, push_processor
from .publishing import published_files
from .pushing import Pushed, push
from .writing import write_card

__all__ = ["Card", "Pushed", "published_files", "push", "push_folder", "push_model", "push_processor", "write_card"]
