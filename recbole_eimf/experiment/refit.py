"""A model trained again, for as many epochs as were best, on more than it was chosen with.

The latest interactions are worth most to whoever is asked next. Nothing is left to choose the epoch by, so it is taken
from the first training; keys, item text and interests are those of the first training too (no LLM is asked).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import init_seed
from torch import nn

from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError, counted
from recbole_eimf.core.run_folder import STATE_FILE
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.data.loader import SequenceTrainDataLoader, loader_class
from recbole_eimf.experiment import assembly, unseen
from recbole_eimf.trainer.phases import PhaseTrainer
from recbole_eimf.trainer.saving import KeepsBestModel
from recbole_eimf.trainer.state import read_values
from recbole_eimf.trainer.trainer import InterestTrainer
from recbole_eimf.trainer.weighing import WeighingTrainer

#: where a run keeps the state of its second training, inside its ``output_dir``
FOLDER = "refit"


def check(config, said: str, trainer: KeepsBestModel | None = None) -> None:
    """Refuse what cannot be trained again as it was.

    Args:
        said: how the user asked for it; trainer: where the model may be one of RecBole's.

    Raises:
        ConfigError: a trainer of RecBole's own, or negatives that RecBole draws.
    """
    name = config["model"]
    if trainer is not None and not isinstance(trainer, InterestTrainer):
        raise ConfigError(f"{said}: {name} has a trainer of RecBole's own, with stages of its own. Leave it out.")
    if config["train_neg_sample_args"].get("distribution", "none") != "none":
        raise ConfigError(f"{said}: {name} trains with RecBole's drawn negatives. Leave it out.")


def loader(config, train: LazySequenceDataset) -> SequenceTrainDataLoader:
    """Training batches of a part that the split did not make."""
    return loader_class(config, "train")(config, train, None, shuffle=config["shuffle"])


def phase_epochs(epochs: Iterable[Mapping[str, Any]], metric: str, bigger: bool) -> dict[str, int]:
    """How many epochs were kept, by phase: up to the best on validation, or all where none was judged.

    Of equals it is the last, as RecBole's early stopping has it.

    Args:
        epochs: of all phases but the last, as their ``history.json`` has them; metric: ``valid_metric``; bigger:
            whether more of it is better.

    >>> told = [{"phase": "pretrain-id", "epoch": n, "valid": {"ndcg@10": score}} for n, score in enumerate((1, 3, 2))]
    >>> phase_epochs([*told, {"phase": "align-aligned", "epoch": 0, "valid": {}}], "NDCG@10", True)
    {'pretrain-id': 2, 'align-aligned': 1}
    >>> valid = {1: {"ndcg@10": 0.3}, 3: {"ndcg@10": 0.3}}
    >>> told = [{"phase": "p", "epoch": n, **({"valid": valid[n]} if n in valid else {})} for n in range(5)]
    >>> phase_epochs(told, "NDCG@10", True)
    {'p': 4}
    """
    of_phase: dict[str, list[Mapping[str, Any]]] = {}
    for epoch in epochs:
        of_phase.setdefault(epoch["phase"], []).append(epoch)
    found = {}
    for phase, made in of_phase.items():
        scores = {epoch["epoch"]: epoch.get("valid", {}).get(metric.lower()) for epoch in made}
        judged = [(score if bigger else -score, epoch) for epoch, score in scores.items() if score is not None]
        found[phase] = (max(judged)[1] if judged else made[-1]["epoch"]) + 1
    return found


def train_again(
    config,
    train: LazySequenceDataset,
    epochs: int,
    folder: str | Path | None = None,
    resume: bool = False,
    of_phases: Mapping[str, int] | None = None,
) -> tuple[nn.Module, InterestTrainer, SequenceTrainDataLoader]:
    """Train a new model of a configuration on ``train``, without validation.

    Args:
        epochs: as many as were best; of a model whose weight validation chooses, which of its weights that is; of a
            model of several phases those of the last, 0 where it was best before it.
        of_phases: the epochs of each phase before, see :func:`phase_epochs`.
        folder: where a state is kept at every epoch's end, None: nowhere; resume: go on from it, unless it is of
            another choice of epochs that this one cannot go on from.

    Returns:
        (model after its last epoch, its trainer, its training batches).
    """
    if resume and folder is not None and _of_another_choice(Path(folder), epochs, of_phases or {}):
        distributed.wait_for_all()  # all have read it
        if distributed.is_first():
            for path in (Path(folder) / STATE_FILE, *Path(folder).glob(f"*/{STATE_FILE}")):
                path.unlink(missing_ok=True)
        distributed.wait_for_all()
        resume = False
    config = copy.copy(config)
    place = None if folder is None else str(folder)
    config.final_config_dict = {
        **config.final_config_dict, "epochs": epochs, "finetune_epochs": epochs, "output_dir": place, "resume": resume,
        "checkpoint_dir": place or config["checkpoint_dir"],
    }  # fmt: skip
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    batches = loader(config, train)
    net = assembly.model(config, train).to(config["device"])
    trainer = assembly.trainer(config, net)
    if isinstance(trainer, PhaseTrainer):
        trainer.epochs_of = of_phases
    if isinstance(trainer, WeighingTrainer):
        net.set_weight(net.weights[epochs - 1])
        trainer.epochs = 0
    elif resume:
        trainer.resume(batches)
    trainer.fit(batches, None, saved=False, show_progress=bool(config["show_progress"]))
    return net, trainer, batches


def _of_another_choice(folder: Path, epochs: int, of_phases: Mapping[str, int]) -> bool:
    """Whether the states kept are of an earlier choice that this one cannot go on from: some phase was trained for
    longer, which cannot be taken back, or for less although one after it has begun, which built on it."""
    wanted = [*((folder / phase, number) for phase, number in of_phases.items()), (folder, epochs)]
    had = [_epochs_had(place / STATE_FILE) for place, _ in wanted]
    return any(
        made > number or (made < number and any(had[at + 1 :]))
        for at, (made, (_, number)) in enumerate(zip(had, wanted, strict=True))
    )


def _epochs_had(state: Path) -> int:
    if not state.is_file():
        return 0
    try:
        history = read_values(state)["history"]
    except Exception:  # damaged: reading it whole says so
        return 0
    return history[-1]["epoch"] + 1 if history else 0


def weigh_alike(net: nn.Module, chosen: nn.Module) -> None:
    """Give a model that was trained again the weights of the score prior that validation chose, where it has one."""
    if getattr(chosen, "prior", None) is not None:
        net.prior.weight.copy_(chosen.prior.weight)


def on_all_before_the_test(
    config, chosen: KeepsBestModel, train: LazySequenceDataset
) -> tuple[nn.Module, InterestTrainer, dict[str, Any]]:
    """``refit=True``: the model of a run that is tested and saved, once its epoch is chosen.

    Args:
        chosen: the trainer that was stopped by validation; train: its training part.

    Returns:
        (model, its trainer, what ``result.json`` says of it).
    """
    before = train.before_test
    epochs = chosen.best_epoch + 1
    added = len(before.flat) - len(train.flat)
    again = counted(epochs, "epoch")
    getLogger().info(f"refit: {again} again on all before the test, {counted(added, 'interaction')} more")
    folder = Path(config["output_dir"]) / FOLDER if config["output_dir"] else None
    phases = phase_epochs(getattr(chosen, "earlier", ()), config["valid_metric"], chosen.valid_metric_bigger)
    net, trainer, _ = train_again(config, before, epochs, folder, bool(config["resume"]), phases)
    weigh_alike(net, chosen.model)
    if config["place_unseen"]:
        unseen.place(net, before)
    trainer.model_folder, trainer.saved_model_file = chosen.model_folder, chosen.saved_model_file
    if trainer.model_folder is not None and trainer.model_folder.is_dir():
        trainer.write(chosen.best_epoch)
    seconds = sum(epoch["train_seconds"] for epoch in trainer.history)
    told = {"epochs": epochs, "interactions": len(before.flat), "interactions_added": added}
    return net, trainer, told | {"train_seconds": round(seconds, 3)}
