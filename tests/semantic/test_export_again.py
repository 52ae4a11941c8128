"""An export that is loaded over the data it was made of, and the command on its card."""

import gzip
import json
import shlex

import numpy as np
import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.config.training_data import usual_settings
from recbole_eimf.semantic.sources.side_loaded import read_assignment
from tests.conftest import TITLES


@pytest.fixture
def baskets(tmp_path):
    """Fifty users with several items a day, ids ascending within it: ``ties`` decides what is held out."""
    draw, rows = np.random.default_rng(3), []
    for user in range(50):
        days = np.sort(draw.integers(1, 5, draw.integers(5, 9)))
        items = np.concatenate([np.sort(draw.choice(len(TITLES), (days == d).sum())) for d in np.unique(days)])
        rows += [f"u{user}\ti{i}\t{d}\t{n}" for n, (i, d) in enumerate(zip(items, days))]
    folder = tmp_path / "baskets"
    folder.mkdir()
    head = "user_id:token\titem_id:token\ttimestamp:float\torder:float"
    (folder / "baskets.inter").write_text("\n".join([head, *rows]) + "\n")
    lines = ["item_id:token\ttitle:token_seq", *(f"i{i}\t{title}" for i, title in enumerate(TITLES))]
    (folder / "baskets.item").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def command(baskets, tmp_path, capsys):
    """``command(name, *words)``: (exit code, report, assignment, all that was said on standard error)."""

    def run(name, *words):
        out = tmp_path / name
        shared = ["interests", "--dataset=baskets", f"--data_path={baskets}", "--text_encoder=tfidf-svd",
                  "--exemplar_ratio=0.2", f"--semantic_cache={tmp_path / 'cache'}", f"--output_dir={out}"]  # fmt: skip
        capsys.readouterr()
        code = main([*shared, *words])
        said = " ".join(capsys.readouterr().err.split())
        if code:
            return code, {}, {}, said
        return code, json.loads((out / "report.json").read_text()), read_assignment(out / "assignment.csv.gz"), said

    return run


SHUFFLED = ("--ties=shuffle", "--ties_seed=5")


def test_an_export_of_these_very_histories_needs_no_digest(command, tmp_path, caplog):
    """Keywords have none, and under shuffled ties the source's order would hold other items out."""
    folder = tmp_path / "exported"
    _, made, assigned, _ = command("one", "--interest_source=keywords", *SHUFFLED, f"--export={folder}")
    caplog.clear()
    code, report, again, _ = command("two", "--interest_source=file", f"--interest_file={folder}", *SHUFFLED)
    assert (code, again) == (0, assigned)
    assert report["exemplars"] == report["replies_of_this_history"] == made["exemplars"]
    assert (report["replies_unchecked"], report["users_moved_to_nearest_exemplar"]) == (0, 0)
    assert "replies_that_know_held_out_items" not in report
    assert "users_assigned_with_held_out_items" not in report
    assert "held out" not in caplog.text
    # what is exported anew is as good
    command("three", "--interest_source=file", f"--interest_file={folder}", *SHUFFLED, f"--export={tmp_path / 'anew'}")
    _, report, again, _ = command("four", "--interest_source=file", f"--interest_file={tmp_path / 'anew'}", *SHUFFLED)
    assert (report["replies_of_this_history"], again) == (made["exemplars"], assigned)


def test_what_no_fingerprint_proves_is_checked_as_it_was(command, tmp_path, caplog):
    folder = tmp_path / "exported"
    _, made, _, _ = command("one", "--interest_source=keywords", *SHUFFLED, f"--export={folder}")
    load = ("--interest_source=file", *SHUFFLED)

    def unchecked(name, *words):
        caplog.clear()
        code, report, _, _ = command(name, *load, *words)
        assert code == 0
        assert report["replies_unchecked"] > 0
        assert report["exemplars"] < made["exemplars"]
        assert "have no prompt_sha256" in caplog.text

    plain = (f"--interest_file={folder / 'interests.jsonl'}", f"--assignment_file={folder / 'assignment.csv.gz'}")
    unchecked("plain", *plain)
    # exported anew, unchecked replies are what they were
    command("second", *load, *plain, f"--export={tmp_path / 'anew'}")
    assert json.loads((tmp_path / "anew" / "meta.json").read_text())["unchecked"] > 0
    unchecked("loaded", f"--interest_file={tmp_path / 'anew'}")
    meta = json.loads((folder / "meta.json").read_text())
    # an earlier version's export: of a file nobody knows what it proved, and without digests files may have changed
    old = {key: value for key, value in meta.items() if key != "unchecked"}
    (folder / "meta.json").write_text(json.dumps({**old, "source": "file"}))
    unchecked("of a file", f"--interest_file={folder}")
    (folder / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if key != "files"}))
    unchecked("without digests", f"--interest_file={folder}")


def test_an_assignment_from_elsewhere_is_checked_beside_an_export(command, tmp_path):
    folder = tmp_path / "exported"
    _, made, assigned, _ = command("one", "--interest_source=keywords", *SHUFFLED, f"--export={folder}")
    own = tmp_path / "mine.csv.gz"
    own.write_bytes(gzip.compress("\n".join(["user_id,exemplar_user_id", *map(",".join, assigned.items())]).encode()))
    words = ("--interest_source=file", f"--interest_file={folder}", f"--assignment_file={own}", *SHUFFLED)
    _, report, _, _ = command("two", *words)
    assert report["exemplars"] == made["exemplars"]
    assert report["users_assigned_with_held_out_items"] > 0


# ---------------------------------------------------------------------- the card and the error
def words_of_the_card(folder):
    """What its command says after ``run``, as a shell reads it."""
    shown = (folder / "README.md").read_text().partition("```bash\n")[2].partition("```")[0]
    words = shlex.split(shown.replace("\\\n", ""))
    assert words[:4] == ["python", "-m", "recbole_eimf", "run"]
    return words[4:]


@pytest.mark.parametrize(
    "keys",
    [
        ("--ties=shuffle", "--ties_seed=5"),
        ("--ties=together",),
        ("--protocol=user_split", "--split_seed=7", "--split_ratios=[0.6,0.2,0.2]", "--ties=shuffle"),
        ("--protocol=global_time", "--time_quantiles=0.5,0.7"),
        ("--protocol=global_time", "--time_dates=2,3"),
        ("--user_inter_num_interval=[7,inf)", "--train_share=0.5", "--load_col={inter: [user_id, item_id, timestamp]}"),
    ],
    ids=lambda keys: keys[-1],
)
def test_the_command_on_the_card_is_that_of_the_same_training_data(command, baskets, tmp_path, monkeypatch, keys):
    folder = tmp_path / "exported"
    _, made, _, _ = command("one", "--interest_source=keywords", *keys, f"--export={folder}")
    meta = json.loads((folder / "meta.json").read_text())
    for word in keys:
        name = word[2:].partition("=")[0]
        assert meta["training_keys"][name] != usual_settings("baskets").get(name)
    said = words_of_the_card(folder)
    assert said[:2] == ["--model=EIMF", "--dataset=baskets"]
    assert {word[2:].partition("=")[0] for word in said[2:-2]} == {
        "protocol", *(word[2:].partition("=")[0] for word in keys)
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where the folder lies
    code, report, _, error = command("two", *(word for word in said if "dataset" not in word))
    assert (code, report.get("replies_of_this_history")) == (0, made["exemplars"]), error


def test_an_error_names_the_settings_that_differ(command, tmp_path):
    folder = tmp_path / "exported"
    command("one", "--interest_source=keywords", "--ties=together", f"--export={folder}")
    load = ("--interest_source=file", f"--interest_file={folder}")
    _, _, _, error = command("two", *load, "--user_inter_num_interval=[7,inf)")
    assert (
        "user_inter_num_interval=[0,inf) there, user_inter_num_interval=[7,inf) here; ties=together there, ties=source "
        "here. Run with '--user_inter_num_interval=[0,inf)' --ties=together, or make replies for these data."
    ) in error
    assert "same filters" not in error
    assert "ties_seed" not in error, "the same on both sides"
    assert "gives up this check" in error
    meta = json.loads((folder / "meta.json").read_text())
    del meta["training_keys"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert "Take the same data set, filters, ties and split_seed" in command("three", *load)[3]
    assert command("four", *load, "--ties=together")[0] == 0, "an export of an earlier version"


def test_a_split_file_is_told_by_its_content_not_by_its_path(command, tmp_path):
    parts = tmp_path / "parts.csv"
    rows = [f"u{n},{'train' if n < 40 else 'valid' if n < 45 else 'test'}" for n in range(50)]
    parts.write_text("\n".join(["user_id,part", *rows]) + "\n")
    folder = tmp_path / "exported"
    split = ("--protocol=user_split", f"--split_file={parts}")
    _, made, _, _ = command("one", "--interest_source=keywords", *split, f"--export={folder}")
    card, meta = (folder / "README.md").read_text(), (folder / "meta.json").read_text()
    assert str(tmp_path) not in card + meta
    assert "--split_file=SPLIT_FILE" in words_of_the_card(folder)
    assert f"begins with `{json.loads(meta)['training_keys']['split_file']}`" in card
    load = ("--interest_source=file", f"--interest_file={folder}", "--protocol=user_split")
    assert "split_file is a file of other content" in command("two", *load)[3]
    moved = parts.rename(tmp_path / "moved.csv")
    _, report, _, _ = command("three", *load, f"--split_file={moved}")
    assert report["replies_of_this_history"] == made["exemplars"]
