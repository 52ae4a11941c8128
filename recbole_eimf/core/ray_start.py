"""What to say where Ray does not come up."""

from __future__ import annotations

from recbole_eimf.core.errors import ConfigError, UserError


def not_started(address: str | None, error: Exception, remedy: str) -> UserError:
    """What to raise where Ray does not come up: an error of ours, if it is none yet."""
    if isinstance(error, UserError):
        return error
    if address:
        return ConfigError(f"ray_address={address}: no Ray cluster answers there ({error}).")
    said = str(error).strip().splitlines()
    return ConfigError(f"Ray did not start on this machine ({said[0] if said else type(error).__name__}): {remedy}.")
