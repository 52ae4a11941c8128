"""``python -m recbole_eimf knowledge``: an LLM's knowledge of items, with a look at the price first."""

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
from recbole_eimf.core.disk import check_not_read
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.files import write_json
from recbole_eimf.core.folders import KNOWLEDGE_FILE
from recbole_eimf.semantic import knowledge_export
from recbole_eimf.semantic.export import KNOWLEDGE
from recbole_eimf.semantic.knowledge import Exchange, Knowledge, KnowledgeStage
from recbole_eimf.semantic.llm.item_reply import parse_item
from recbole_eimf.semantic.needs import check_knowledge_file, check_knowledge_source, check_path, source_of_knowledge

USAGE = """usage: python -m recbole_eimf knowledge --dataset=NAME [--data_path=DIR]
         --knowledge_source=openai|batch|file|shuffled [--key=value ...] [--dry-run | --yes]
         [--export=DIR [--licence=TEXT]]

Asks about each item of the catalogue: its kind, use, buyer and occasion, and what its buyers buy next. Writes
OUT/items.jsonl and OUT/report.json (--output_dir=OUT, default knowledge/NAME), which training side-loads with
--knowledge_source=file --knowledge_file=OUT/items.jsonl. Before any paid call it shows one prompt and the number of
calls, tokens and the estimated cost, then asks. --dry-run stops there, --yes does not ask. Stopped in any way, the same
command goes on where it was: replies are kept, one line each, as they arrive. batch writes the requests of the
OpenAI Batch API that the journal does not answer (several files where one would be too large), and reads the answers
with --batch_file=FILE or a folder of files; file checks replies made elsewhere; shuffled writes their placebo: to each
item what is known of another one that is about as popular (default OUT: knowledge/NAME-shuffled).

--export=DIR also writes the replies as data for others: with a card, the prompt, the model and a fingerprint of the
titles, which --knowledge_file=DIR checks when it loads the folder.

keys (all take --key=value): llm_model, llm_model_alias (what answers call it, if otherwise), llm_base_url,
llm_api_key_env (the NAME of the variable that holds the key), llm_api_key_file, llm_concurrency, llm_check_first,
llm_price_in, llm_price_out (USD per million tokens),
knowledge_prompt_file, knowledge_file, shuffled_knowledge, batch_file, protocol, semantic_cache
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code (0 done, 1 declined, 3 some replies failed).

    Raises:
        UserError: bad keys, files or sources.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    words = list(arguments)
    out, licence = export_options(words, KNOWLEDGE)
    values, flags = parsed(words)
    stage, exchange, folder = _read_and_check(values, out, dry="--dry-run" in flags)
    introduction = f"{len(stage.item_text)} items with text. The prompt of one item:"
    if _writes_requests(stage.settings):
        if out:
            print(f"--export={out} waits for the answers: give it again beside --batch_file.")
        wanted = stage.llm_settings()
        return offer_batch(introduction, stage.requests(), wanted, folder, stage.journal, flags, parse_item)
    if stage.source == "openai":
        prompt, wanted = stage.requests()[0].prompt, stage.llm_settings()
        if not agreed_to(introduction, prompt, wanted, stage.estimate(), flags, stage.journal, "knowledge_source"):
            return 0 if "--dry-run" in flags else 1
    elif "--dry-run" in flags:
        print(f"knowledge_source={stage.settings.knowledge_source}: no paid calls; {len(stage.item_text)} items.")
        return 0
    found = stage.run(exchange, agreed=True)
    code = _write_found(found, stage, folder)
    if out:
        knowledge_export.write_export(Path(out), found, stage, licence)
        print(f"exported: {out} (see {out}/README.md); load it with --knowledge_source=file --knowledge_file={out}")
    return code


def _writes_requests(settings: SemanticSettings) -> bool:
    return source_of_knowledge(settings) == "batch" and not settings.batch_file


def _read_and_check(values: dict[str, Any], out: str | None, dry: bool) -> tuple[KnowledgeStage, Exchange, Path]:
    from recbole_eimf.experiment.interests import knowledge_stage

    placebo = "-shuffled" if values.get("knowledge_source") == "shuffled" else ""
    dataset, files, folder = what_and_where(values, "knowledge", placebo)
    if values.get("knowledge_source", "none") == "none":
        raise ConfigError("--knowledge_source is missing: openai, batch, file or shuffled.")

    def check(settings: SemanticSettings) -> None:
        check_path("knowledge_prompt_file", settings.knowledge_prompt_file)  # what is asked is shown and written, too
        check_knowledge_file(settings)
        if out:
            check_export(out, folder)
        for key, place in {"output_dir": folder, **({"--export": Path(out)} if out else {})}.items():
            check_not_read([place / KNOWLEDGE_FILE], {"knowledge_file": settings.knowledge_file}, f"{key}={place}")
        if not dry and not _writes_requests(settings):
            check_knowledge_source(settings, dataset)

    stage, exchange = knowledge_stage(dataset, files, values, check)
    return stage, exchange, folder


def _write_found(found: Knowledge, stage: KnowledgeStage, folder: Path) -> int:
    knowledge_export.write_items(folder, found, stage.item_text)
    write_json(folder / "report.json", {"source": found.source, **found.report})
    missing = found.report["items_with_text"] - len(found.items)
    print(
        f"{len(found.items)} of {found.report['items_with_text']} items are known, "
        f"{found.report['next_phrases']} phrases of what is bought next"
        + (f"; {missing} items without" if missing else "")
        + f"\nwritten: {folder}/{KNOWLEDGE_FILE}, report.json"
    )
    if found.source == "batch":
        write_left(stage.requests(), stage.llm_settings(), folder, found.items.keys())
    if missing and found.source == "openai":
        print(f"the raw replies are in {stage.journal}; the same command asks for the missing ones again")
    return 3 if missing and found.source in ("openai", "batch") else 0
