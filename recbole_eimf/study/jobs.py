"""What ``compare`` and ``tune`` do alike with many runs: paths for workers, the text stage once, and Ray."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_eimf.config import keys
from recbole_eimf.config.checks import is_bundled
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.config.same import TRAINING
from recbole_eimf.config.same_experiment import PATHS
from recbole_eimf.core.errors import UserError
from recbole_eimf.core.files import fingerprint
from recbole_eimf.core.parts import require
from recbole_eimf.core.ray_start import start_ray


# ---------------------------------------------------------------------- before the jobs
def absolute_paths(config: EIMFConfig) -> dict[str, str]:
    """Keys that name files or folders, absolute: a worker stands in another folder.

    A file that is missing is reported when it is looked for; an encoder is a name or a folder.
    """
    found = {}
    for key in (*PATHS, "text_encoder"):
        value = config[key]
        if key != "data_path" and isinstance(value, str) and (key == "semantic_cache" or Path(value).exists()):
            found[key] = str(Path(value).absolute())
    if not is_bundled(config["data_path"]):  # it is found wherever a worker stands
        found["data_path"] = str(Path(config["data_path"]).absolute().parent)
    return found


def make_text_once(configs: Iterable[EIMFConfig], told: bool = False) -> None:
    """Make what jobs share before they start: text vectors, clusters, replies, once for each distinct setting of them.

    Data that no text belongs to are read as well: what is wrong with them is said before Ray starts, and once.

    Args:
        configs: of the jobs; told: what ``mask_history`` makes of these data need not be said.

    Raises:
        UserError: data, text or interests that are not there: no job could have found them.
    """
    from recbole_eimf.experiment import assembly

    seen = set()
    for config in configs:
        need = contract_of(config.model_class).needs_side_information(config)
        wanted = keys.read(SemanticSettings, config.final_config_dict)
        made_of = fingerprint(vars(wanted), {key: config[key] for key in TRAINING}) if need else None
        if (need, made_of) not in seen:
            config.data_told, config.times_told = told or bool(seen), bool(seen)
            seen.add((need, made_of))
            _quietly(assembly.datasets, config)


def _quietly(work: Any, config: EIMFConfig) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.WARNING)
    try:
        work(config)
    except UserError:
        raise
    except Exception as error:  # the job itself will fail with it and say so in its place
        print(f"the text stage of {config['model']} failed: {error}", file=sys.stderr)
    finally:
        root.setLevel(before)


# ---------------------------------------------------------------------- Ray
def gpus_of_a_job(wanted: float | None) -> float:
    """GPUs that a job takes: those ``wanted``, by default one where this machine has any."""
    if wanted is not None:
        return wanted
    import torch

    return 1.0 if torch.cuda.is_available() else 0.0


def on_lent_gpus(keys: Mapping[str, Any], lent: bool) -> dict[str, Any]:
    """The keys of a job in a Ray worker: on the GPUs that Ray has ``lent`` it, which are the ones that it sees by
    whatever name they have, else on the processor."""
    others = {key: value for key, value in keys.items() if key != "gpu_id"}
    return others if lent else {**others, "gpu_id": "-1"}


@contextmanager
def ray_running(slots: int | None = None, threads: int | None = None, address: str | None = None) -> Iterator[Any]:
    """Ray for the jobs, ended with them; a Ray that runs in this process already is used and left as it is.

    Args:
        slots: processors of this machine that jobs share; None is all of them.
        threads: that numerical libraries of a local Ray's workers begin with; None leaves them alone.
        address: of a cluster to use in place of this machine.

    Raises:
        ConfigError: no cluster answers at ``address``, or Ray does not start here.
    """
    require("ray")
    import ray

    if ray.is_initialized():
        yield ray
        return
    remedy = "type the same command again once it is less busy (compare and study work without, by --parallel=0)"
    start_ray(address, slots, threads, remedy)
    try:
        yield ray
    finally:
        ray.shutdown()
