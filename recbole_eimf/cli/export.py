"""``python -m recbole_eimf export``: a finished run to a model folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.core.errors import ConfigError

USAGE = """usage: python -m recbole_eimf export --run OUT --out MODEL [--index auto|flat|hnsw|none] [--onnx] [--refit]
         [--text auto|yes|no] [--no-histories] [--model package.module:Class]

Writes the model of a run (its output_dir) as a folder that is served without RecBole and holds no pickle: config.json,
safetensors, parquet, README.md (the model card). From any of our models but floors that read text, the counting floors
among them, and RecBole's SASRec, GRU4Rec, BERT4Rec. An older model folder of that name is replaced once the new one is
whole.

  --index         how one user's items are searched: auto (all products, below 20,000 items; flat from there on), flat
                  (exact, with a proof for each answer), hnsw (a graph: faster from a million items on, and not exact;
                  not over a score prior)
  --onnx          write encoder.onnx too (extra [onnx])
  --refit         train again first, on everything, for the epochs that were best: what one deploys
  --text          auto keeps what placing new items by title needs where the run read text; yes encodes the titles
                  where it did not; no leaves it out
  --no-histories  leave out users' histories (`recommend --user` needs them)
  --model         the class of a model of your own, which is imported; serving needs it no more
"""


#: said of an empty value
EMPTY = "no value (a variable of the shell that is not set?). Give one, or leave the option out."


class Parser(argparse.ArgumentParser):
    """argparse whose errors are the user's: no usage on stderr, exit code by the caller."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> None:
        raise ConfigError(f"{message}. See python -m recbole_eimf {self.prog} --help.")

    def given(self, arguments: Sequence[str], may_be_empty: Sequence[str] = ()) -> argparse.Namespace:
        """Read the command line.

        Raises:
            ConfigError: what argparse complains of, or an empty value, which is no other than no value to most of what
                reads it; ``may_be_empty`` names the options that have a use for one.
        """
        found = self.parse_args(list(arguments))
        for action in self._actions:
            if getattr(found, action.dest) == "" and action.dest not in may_be_empty:
                name = action.option_strings[0] if action.option_strings else action.dest.upper()
                raise ConfigError(f"{name}='': {EMPTY}")
        return found


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments, or a run that cannot be exported.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    parser = Parser("export")
    parser.add_argument("--run", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--index", default="auto")
    parser.add_argument("--text", default="auto")
    parser.add_argument("--model")
    for flag in ("onnx", "refit", "no-histories"):
        parser.add_argument(f"--{flag}", action="store_true")
    given = parser.given(arguments)

    from recbole_eimf.serving.export import export
    from recbole_eimf.serving.model_folder import is_model_folder
    from recbole_eimf.serving.recommender import Recommender

    place = " in place of an earlier model" if is_model_folder(given.out) else ""
    out = export(
        given.run,
        given.out,
        index=given.index,
        onnx=given.onnx,
        refit=given.refit,
        text=given.text,
        histories=not given.no_histories,
        model=given.model,
    )
    model = Recommender.load(out)
    size = sum(entry["bytes"] for entry in model.config["files"].values())
    print(f"{model}")
    for name, entry in model.config["files"].items():
        print(f"  {name:<22} {entry['bytes'] / 1e6:10.2f} MB")
    print(
        f"written: {out} ({size / 1e6:.1f} MB){place}. Next: python -m recbole_eimf recommend --model {out} "
        f"--history A,B"
    )
    return 0
