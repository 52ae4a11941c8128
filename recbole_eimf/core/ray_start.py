"""Ray: a small one on this machine, or a cluster that somebody named; and what to say where it does not come up."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from recbole_eimf.core.environment import environment_kept
from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.core.parts import require

#: what numerical libraries read as they are imported
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: jobs are a few kilobytes, and pieces numbers; 78 MB is the least that Ray takes
_STORE = 80 * 2**20


def start_ray(address: str | None, slots: int | None, threads: int | None, remedy: str) -> Any:
    """Start Ray on this machine, or join the cluster at ``address``; whoever calls this shuts it down.

    Args:
        slots: processors of this machine that jobs share; None is all of them.
        threads: that numerical libraries of a local Ray's workers begin with; None leaves them alone.
        remedy: what to do where Ray does not start on this machine.

    Returns:
        The module ``ray``.

    Raises:
        ConfigError: no cluster answers at ``address``, or Ray does not start here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require("ray")
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    limits = _THREADS if threads else ()
    try:
        if address:
            check_cluster(address)
            ray.init(address=address, **quiet)
        else:
            with environment_kept(*limits):
                os.environ.update(dict.fromkeys(limits, str(threads)))  # the workers of a local Ray inherit it
                ray.init(
                    address="local",  # not the cluster of RAY_ADDRESS, which nobody named here
                    num_cpus=slots,
                    include_dashboard=False,
                    object_store_memory=_STORE,
                    **quiet,
                )
    except Exception as error:  # Ray raises a bare one where a busy machine keeps it waiting
        raise _not_started(address, error, remedy) from error
    return ray


def check_cluster(address: str) -> None:
    """Raise ConfigError if nothing listens at a cluster's ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # auto
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigError(f"ray_address={address}: no Ray cluster answers there ({error}).") from error


def _not_started(address: str | None, error: Exception, remedy: str) -> UserError:
    """What to raise where Ray does not come up: an error of ours, if it is none yet."""
    if isinstance(error, UserError):
        return error
    if address:
        return ConfigError(f"ray_address={address}: no Ray cluster answers there ({error}).")
    said = str(error).strip().splitlines()
    return ConfigError(f"Ray did not start on this machine ({said[0] if said else type(error).__name__}): {remedy}.")
