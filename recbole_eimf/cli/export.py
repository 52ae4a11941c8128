"""``python -m recbole_eimf export``: a finished run to a model folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown

USAGE = """usage: python -m recbole_eimf export --run OUT --out MODEL [--index auto|flat|hnsw|none] [--onnx] [--refit]
         [--text auto|yes|no] [--no-histories] [--model package.module:Class]

Writes the model of a run (its output_dir) as a folder that is served without RecBole and holds no pickle: config.json,
safetensors, parquet, README.md (the model card). It takes all our models but floors that read text (TextKNN and the
like), and RecBole's SASRec, GRU4Rec and BERT4Rec. An older model folder of that name is replaced once the new one is
whole.

  --run           the output_dir of the run
  --out           the model folder to write
  --index         how one user's items are searched: auto (all products, below 20,000 items; flat from there on), flat
                  (exact, with a proof for each answer), hnsw (a graph: faster from a million items on, and not exact;
                  not over a score prior)
  --onnx          write encoder.onnx too (extra [onnx])
  --refit         first train again on everything, validation and test too, for as many epochs as were best: for
                  deployment
  --text          what `add` needs to place new items by title: auto keeps it where the run read text, yes encodes the
                  titles where it did not, no leaves it out
  --no-histories  leave out users' histories (`recommend --user` needs them)
  --model         the class of a model of your own, which is imported; serving does not need it
"""


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
        f"written: {out} ({size / 1e6:.1f} MB){place}. Next: python -m recbole_eimf recommend --model "
        f"{shlex.quote(str(out))} --history A,B"
    )
    return 0
