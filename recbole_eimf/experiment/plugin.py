"""The only file that reaches into RecBole: registration of our models, and shims for today's libraries.

:func:`register` is idempotent and changes nothing for RecBole's own models except that they run on these library
versions. Each shim names what it answers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import recbole.config.configurator
import recbole.data.dataset
import recbole.data.utils
import recbole.trainer
import recbole.trainer.trainer
import recbole.utils.utils
import torch

from recbole_eimf.config.contract import is_ours
from recbole_eimf.config.models import MODELS, load_model_class, stock_models
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.trust import trusted_checkpoints

_PATCHED = "_recbole_eimf_original"
_registered: set[str] = set()  # names of ours that RecBole finds


def register() -> None:
    """Make RecBole find our models, and make RecBole run on today's NumPy and torch.

    After it, ``recbole.quick_start.run_recbole(model="EIMF", ...)``, ``recbole.quick_start.load_data_and_model`` and
    ``recbole.utils.get_model("EIMF")`` work, in this process and in those RecBole spawns.
    """
    register_models()
    _patch_quick_start()


def register_models() -> None:
    """:func:`register` without ``recbole.quick_start``."""
    adapt_recbole()
    _load_plugin_yaml_for_our_models()
    _use_our_loaders_for_our_datasets()
    _make_no_idle_samplers()
    _refuse_users_without_rows()
    for name in MODELS:
        register_model(load_model_class(name))


def adapt_recbole() -> None:
    """What RecBole needs on today's libraries, and our metrics in its registry: all that our own ``run`` changes in it.

    Which models, data sets, loaders and configurations RecBole knows stays as it is.
    """
    # RecBole's calls into pandas and torch.cuda.amp are deprecated, not wrong, on the versions setup.cfg allows
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    # "\\p" in a docstring, which Python 3.12 and later tell of when they first compile the file
    warnings.filterwarnings("ignore", category=SyntaxWarning, module=r".*\brecbole\b")
    _restore_numpy_names()
    _stop_anomaly_detection()
    _trust_own_checkpoints()
    _add_metrics()
    _write_tensorboard_once()


def register_model(model_class: type) -> None:
    """Let RecBole find ``model_class``, its data set and its trainer by the class's name."""
    from recbole_eimf.semantic.dataset import dataset_class
    from recbole_eimf.trainer.choice import trainer_class

    name = model_class.__name__
    _registered.add(name)
    path = f"recbole.model.sequential_recommender.{name.lower()}"
    # get_model() asks for a module of the model's name: an alias that holds just the class
    alias = types.ModuleType(path, f"Alias of {model_class.__module__}.")
    alias.__spec__ = importlib.machinery.ModuleSpec(path, loader=None)
    setattr(alias, name, model_class)
    sys.modules[path] = alias
    setattr(recbole.data.dataset, f"{name}Dataset", dataset_class(model_class))
    setattr(recbole.trainer, f"{name}Trainer", trainer_class(model_class))


@contextlib.contextmanager
def found_by_recbole(model_class: type) -> Iterator[None]:
    """:func:`register_model`, undone at the end where the class bears a name that RecBole knows already."""
    name = model_class.__name__
    path = f"recbole.model.sequential_recommender.{name.lower()}"
    if importlib.util.find_spec(path) is None:
        register_model(model_class)
        yield
        return
    places = [(vars(recbole.data.dataset), f"{name}Dataset"), (vars(recbole.trainer), f"{name}Trainer")]
    places = [(sys.modules, path), *places]
    before = [(place, key, place.get(key)) for place, key in places]
    register_model(model_class)
    try:
        yield
    finally:
        for place, key, value in before:
            place.pop(key)
            if value is not None:
                place[key] = value


# ---------------------------------------------------------------------- shims
def _restore_numpy_names() -> None:
    """NumPy 2 dropped names that RecBole 1.2.1's Config reads (RecBole's issue 2215)."""
    for name, value in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if name not in vars(np):
            setattr(np, name, value)


def _stop_anomaly_detection() -> None:
    """Importing RecBole's sine.py turns autograd anomaly detection on for the whole process: slow, of no use.

    Imported here, it leaves the setting as the user had it. Where RecBole's models were imported before, nobody can
    tell who turned it on: it stays, and a warning says so.
    """
    if "recbole.model.sequential_recommender.sine" in sys.modules:
        if torch.is_anomaly_enabled() and not _registered:
            warnings.warn(
                "autograd anomaly detection is on, and training slow: RecBole's sine.py turns it on when RecBole's "
                "models are imported. torch.autograd.set_detect_anomaly(False) turns it off.",
                stacklevel=4,
            )
        return
    stock_models()


def _patch(owner: Any, name: str, make: Any) -> None:
    """Replace ``owner.name`` by ``make(original)``, once."""
    current = getattr(owner, name)
    if hasattr(current, _PATCHED):
        return
    replacement = functools.wraps(current)(make(current))
    setattr(replacement, _PATCHED, current)
    setattr(owner, name, replacement)


def _with_trust(original: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with trusted_checkpoints():
            return original(*args, **kwargs)

    return call


def _trust_own_checkpoints() -> None:
    for method in ("evaluate", "resume_checkpoint"):
        _patch(recbole.trainer.trainer.Trainer, method, _with_trust)


def _load_plugin_yaml_for_our_models() -> None:
    """RecBole's Config reads YAML from its own package only; ours is applied after it, before the user's."""
    from recbole_eimf.config.config import EIMFConfig, check_configuration, plugin_defaults
    from recbole_eimf.config.old_names import today

    def make(original: Any) -> Any:
        def load(self, model, model_class, dataset):
            original(self, model, model_class, dataset)
            if is_ours(model_class) and not isinstance(self, EIMFConfig):  # which has them already
                self.external_config_dict = today(self.external_config_dict)
                given = self.external_config_dict
                self.internal_config_dict.update(plugin_defaults(model_class, model, dataset, given))
                check_configuration(self)
            self.model_class = model_class

        return load

    _patch(recbole.config.configurator.Config, "_load_internal_config_dict", make)


def _use_our_loaders_for_our_datasets() -> None:
    """RecBole picks loaders by model name and type; a lazy data set needs ours whatever the model."""
    from recbole_eimf.data.dataset import LazySequenceDataset
    from recbole_eimf.data.loader import loader_class

    def make(original: Any) -> Any:
        def get_dataloader(config, phase):
            stock = original(config, phase)

            def build(config, dataset, sampler, shuffle=False):
                kind = loader_class(config, phase) if isinstance(dataset, LazySequenceDataset) else stock
                return kind(config, dataset, sampler, shuffle=shuffle)

            return build

        return get_dataloader

    _patch(recbole.data.utils, "get_dataloader", make)


def _make_no_idle_samplers() -> None:
    """RecBole's samplers keep a set for every user; where nothing is ever sampled a lazy data set goes without."""
    from recbole_eimf.data.dataset import LazySequenceDataset
    from recbole_eimf.data.loader import samples_nothing

    def make(original: Any) -> Any:
        def create_samplers(config, dataset, built_datasets):
            if samples_nothing(config) and isinstance(dataset, LazySequenceDataset):
                return None, None, None
            return original(config, dataset, built_datasets)

        return create_samplers

    _patch(recbole.data.utils, "create_samplers", make)


def _add_metrics() -> None:
    """RecBole's registry of metrics is made once from its own module; Config, Collector and Evaluator read it."""
    from recbole.evaluator import register as registry

    from recbole_eimf.evaluator.metrics import METRICS

    for name, metric in METRICS.items():
        registry.metrics_dict[name] = metric
        registry.metric_information[name] = metric.metric_need
        registry.metric_types[name] = metric.metric_type


def _write_tensorboard_once() -> None:
    """Every trainer opens a log for TensorBoard; of several processes the first one's is enough, in the run's folder if
    it has one."""
    from recbole_eimf.core import distributed
    from recbole_eimf.experiment import run_log

    def make(original: Any) -> Any:
        def get_tensorboard(logger):
            if not distributed.is_first():
                return _NoTensorBoard()
            folder = run_log.tensorboard_folder(logger)
            return original(logger) if folder is None else recbole.utils.utils.SummaryWriter(str(folder))

        return get_tensorboard

    _patch(recbole.trainer.trainer, "get_tensorboard", make)


class _NoTensorBoard:
    """What a trainer calls of a ``SummaryWriter``, doing nothing."""

    def add_scalar(self, *args: Any) -> None: ...

    def add_hparams(self, *args: Any) -> None: ...


class _Tune:
    """``ray.tune`` as RecBole's ``quick_start`` uses it, which needs no Ray where no trial of Ray's runs.

    RecBole reports with ``report(**result)``, also when nobody listens; Ray takes a dictionary, from a trial only.
    """

    @staticmethod
    def report(**result: Any) -> None:
        if _in_ray_trial():
            from ray import tune

            tune.report(result)


@contextlib.contextmanager
def _without_ray() -> Iterator[None]:
    """Inside, ``from ray import tune`` gives :class:`_Tune`: RecBole imports Ray at its front door, whoever enters."""
    names = ("ray", "ray.tune")
    held = {name: sys.modules[name] for name in names if name in sys.modules}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["ray"].tune = _Tune
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(held)


def _refuse_users_without_rows() -> None:
    """RecBole's case study leaves out users that have no row in the data, and the rows no longer fit the users."""
    import recbole.utils.case_study

    def make(original: Any) -> Any:
        def full_sort_scores(uid_series, model, test_data, device=None):
            if test_data.is_sequential:
                known = np.unique(test_data._dataset.inter_feat[test_data._dataset.uid_field].numpy())
                absent = np.setdiff1d(np.asarray(uid_series), known)
                if len(absent):
                    token = test_data._dataset.id2token(test_data._dataset.uid_field, int(absent[0]))
                    raise DataError(
                        f"full_sort_scores: {len(absent)} of {len(uid_series)} users have no row in this data, the "
                        f"first is {token!r}. Ask for users of this part, or give another (valid_data, test_data)."
                    )
            return original(uid_series, model, test_data, device)

        return full_sort_scores

    _patch(recbole.utils.case_study, "full_sort_scores", make)


def _patch_quick_start() -> None:
    with _without_ray():
        package = importlib.import_module("recbole.quick_start")
    module = importlib.import_module("recbole.quick_start.quick_start")
    module.tune = _Tune
    _patch(module, "load_data_and_model", _loading_without_side_files)
    # Processes that RecBole spawns start without us and find their function by its import path: it must be this
    # module's, whose import registers.
    if module.run_recboles is not run_recboles:
        setattr(run_recboles, _PATCHED, module.run_recboles)
        module.run_recboles = run_recboles
    if module.objective_function is not objective_function:
        setattr(objective_function, _PATCHED, module.objective_function)
        module.objective_function = package.objective_function = objective_function
    package.load_data_and_model = module.load_data_and_model


def _loading_without_side_files(original: Any) -> Any:
    def load_data_and_model(model_file):
        with trusted_checkpoints():
            checkpoint = torch.load(model_file, map_location="cpu")
            config = checkpoint["config"]
            load, held = torch.load, checkpoint

            def load_once(file, *args: Any, **kwargs: Any) -> Any:
                return held if file == model_file else load(file, *args, **kwargs)

            # serving needs neither text nor interests: the model is built without them
            config["inference_only"] = True
            torch.load = load_once
            try:
                with _imported_model(config["model_import"]):
                    return original(model_file)
            finally:
                torch.load = load

    return load_data_and_model


def _imported_model(path: str | None) -> contextlib.AbstractContextManager:
    from recbole_eimf.config.models import load_model_class

    return found_by_recbole(load_model_class(path)) if path else contextlib.nullcontext()


def run_recboles(rank, *args):
    """RecBole's worker function for several processes, which registers our models first."""
    register()
    return getattr(run_recboles, _PATCHED)(rank, *args)


def objective_function(config_dict=None, config_file_list=None, saved=True):
    """RecBole's objective of a search, in Ray's workers and in RecBole's HyperTuning.

    In a Ray trial the metrics are reported and nothing is returned: Ray takes a returned dictionary for another report,
    which lacks the metric that its scheduler asks for.
    """
    register()
    found = getattr(objective_function, _PATCHED)(config_dict, config_file_list, saved)
    return None if _in_ray_trial() else found


def _in_ray_trial() -> bool:
    # a trial runs in a process in which Ray has been imported; elsewhere Ray may be missing
    if "ray.tune" not in sys.modules:
        return False
    from ray import tune

    try:
        return tune.get_context().get_trial_id() is not None
    except RuntimeError:
        return False
