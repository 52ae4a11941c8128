"""``python -m recbole_eimf interests``: the LLM stage alone, with a look at the price before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_eimf.cli.paid import (
    agreed_to,
    check_export,
    export_options,
    offer_batch,
    parsed,
    what_and_where,
    write_left,
)
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.config.maker import is_marked
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.files import write_json
from recbole_eimf.semantic import export
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.llm.price import estimate_calls
from recbole_eimf.semantic.needs import check_interest_source, check_path, check_unread_files
from recbole_eimf.semantic.pipeline import Interests, Pipeline

USAGE = """usage: python -m recbole_eimf interests --dataset=NAME [--data_path=DIR]
         --interest_source=openai|file|batch|keywords [--key=value ...] [--dry-run | --yes]
         [--export=DIR [--licence=TEXT]]

Clusters the training users by the text of what they bought, asks for the interests of each cluster's exemplar and
writes OUT/interests.jsonl and OUT/assignment.csv.gz (--output_dir=OUT, default interests/NAME), which training
side-loads with --interest_source=file. Before any paid call it shows one prompt and the number of calls, tokens and the
estimated cost, then asks. --dry-run stops there, --yes does not ask. Stopped in any way, the same command goes on where
it was: replies are kept, one line each, as they arrive, and at most the calls in flight are asked again. Where not one
of the first 20 replies (llm_check_first) holds an interest, it asks whether to go on, or stops if nobody can answer.

batch writes the requests of the OpenAI Batch API that the journal does not answer (several files where one would be too
large), and reads the answers with --batch_file=FILE or a folder of files.

--export=DIR also writes the replies as data for others: with a card, the prompt, the model, the protocol and a
fingerprint of the training data, which --interest_file=DIR checks when it loads the folder.

keys (all take --key=value): llm_model, llm_model_alias (what answers call it, if otherwise), llm_base_url,
llm_api_key_env (the NAME of the variable that holds the key), llm_api_key_file, llm_concurrency, llm_check_first,
llm_price_in, llm_price_out (USD per million tokens),
exemplar_ratio, preference, clustering, text_encoder, protocol, ties (shuffle for a table), split_seed, prompt_file,
prompt_items, max_interests, batch_file, semantic_cache; model and recipe: of the run that the interests are for
(default EIMF; its recipe=paper has other clusters)
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code (0 done, 1 declined, 3 some replies failed).

    Raises:
        UserError: bad keys, files or sources.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    words = list(arguments)
    out, licence = export_options(words, export.KIND)
    values, flags = parsed(words)
    pipeline, folder, seed = _read_and_check(values, out, dry="--dry-run" in flags)
    source = pipeline.settings.interest_source
    if "--dry-run" not in flags and not _writes_requests(pipeline.settings):
        pipeline.check_source()  # what is in the files, too
    if _writes_requests(pipeline.settings):
        if out:
            print(f"--export={out} waits for the answers: give it again beside --batch_file.")
        requests = pipeline.requests(pipeline.clusters[0])
        return offer_batch(_introduction(pipeline), requests, pipeline.llm_settings(), folder, pipeline.journal, flags)
    if source == "openai":
        if not _show_and_ask(pipeline, flags):
            return 0 if "--dry-run" in flags else 1
    elif "--dry-run" in flags:
        exemplars = pipeline.clusters[0] if source in ("keywords", "batch") else []
        print(f"interest_source={source}: no paid calls; {len(exemplars) or 'the file decides how many'} exemplars.")
        return 0
    found = pipeline.run(seed=seed, agreed=True)
    code = _write_found(found, pipeline, folder)
    if out:
        export.write_export(Path(out), found, pipeline.origin(), licence)
        print(f"exported: {out} (see {out}/README.md); load it with --interest_source=file --interest_file={out}")
    return code


def _writes_requests(settings: SemanticSettings) -> bool:
    return settings.interest_source == "batch" and not settings.batch_file


def _read_and_check(values: dict[str, Any], out: str | None, dry: bool) -> tuple[Pipeline, Path, int]:
    from recbole_eimf.experiment.interests import training_pipeline

    dataset, files, folder = what_and_where(values, "interests")

    def check(settings: SemanticSettings) -> None:
        if settings.interest_source == "shuffled":
            raise ConfigError(
                "interest_source=shuffled is the placebo of training; there is nothing to run for it here. Name the "
                "source that it shuffles."
            )
        check_path("prompt_file", settings.prompt_file)  # what is asked is shown and written, too
        check_unread_files(settings)
        export.check_not_over(folder, settings, "output_dir")
        if out:
            check_export(out, folder)
            export.check_not_over(Path(out), settings, "--export")
        if not dry and not _writes_requests(settings):
            check_interest_source(settings, dataset)

    pipeline, seed = training_pipeline(dataset, files, values, check)
    return pipeline, folder, seed


def _show_and_ask(pipeline: Pipeline, flags: set[str]) -> bool:
    """Show a prompt and the price; whether to go on."""
    requests, wanted = pipeline.requests(pipeline.clusters[0]), pipeline.llm_settings()
    estimate = estimate_calls(requests, wanted, client.answered_users(requests, wanted, pipeline.journal))
    return agreed_to(_introduction(pipeline), requests[0].prompt, wanted, estimate, flags, pipeline.journal)


def _introduction(pipeline: Pipeline) -> str:
    exemplars, assignment, _ = pipeline.clusters
    return f"{len(exemplars)} clusters of {len(assignment)} training users. The prompt of one exemplar:"


def _write_found(found: Interests, pipeline: Pipeline, folder: Path) -> int:
    exemplars = export.write_replies(folder, found)
    report = {"source": found.source, "llm_used": found.llm_used, "made_by": found.made_by, **found.report}
    write_json(folder / "report.json", report)
    failed = len(found.exemplars) - exemplars
    print(
        f"{report['interests']} interests of {exemplars} exemplars for {len(found.assignment)} users"
        + (" (NO LLM was used: keywords of the clusters' titles)" if found.made_by == "keywords" else "")
        + (" (a placebo: given to users by chance)" if is_marked(found.source) else "")
        + (f"; {failed} exemplars without any" if failed else "")
        + f"\nwritten: {folder}/interests.jsonl, assignment.csv.gz, report.json"
    )
    if found.source == "batch":
        known = {user for user, texts in zip(found.exemplars, found.texts) if texts}
        write_left(pipeline.requests(found.exemplars), pipeline.llm_settings(), folder, known)
    if failed and found.source == "openai":
        print(f"the raw replies are in {pipeline.journal}; the same command asks for the failed ones again")
    return 3 if failed and found.llm_used else 0
