"""The tables of README and docs/results, cell by cell, against the JSON files in benchmarks/results. Order of rows and
columns is the page's."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest

from tests.figures import (
    ROOT,
    Cell,
    Row,
    apart,
    both_of,
    counting,
    gain,
    headed,
    known,
    mean,
    numbers,
    placed,
    result,
    searched,
    share,
    table,
    together,
    wrong,
)

_RARE = "seen <= 5 times"
_EIMF, _ORDER, _PAD, _KNOWN = (f"docs/results/{name}.md" for name in ("eimf", "order", "pad", "knowledge"))
_FLOORS, _TEXT = ["Popularity", "Markov", "DecayedItemKNN"], ["TextKNN", "ItemKNN+text"]
_THREE = ["SASRec", "EIMF[SASRec]", "placebo[SASRec]"]
_SIX = [*_THREE, "REMI", "EIMF[REMI]", "placebo[REMI]"]
_TWO = ("SASRec", "REMI")
_PAD_SLICES = ("unseen", "1-5", "6-20", ">20")
_SHUFFLED, _PAPER, _ARENA = "beauty_user_split_shuffled", "office_eimf_paper_form", "arena_office"
_BOTH_ORDERS = "arena_beauty_leave_one_out"
_GRU, _PROFILES, _RELEASED = "arena_office_gru4rec", "arena_office_profiles", "arena_office_esasrec"
_AND_TUNED = "arena_office_tuned_more"
_WITH_TEXT, _PATIENT = "beauty_user_split_text", "arena_office_paper_gru4rec_patient"
_HIDDEN, _OWN = "arena_office_tuned_bert4rec", "office_llmesr_settings"
_TUNED, _REMI, _LATER = "arena_office_tuned", "arena_office_remi", "arena_beauty_global_time"
_OVER_REMI, _NETWORKS = "beauty_global_time_remi", "beauty_global_time_networks"
_IN_PAPER, _MEANT = "beauty_global_time_paper", "beauty_global_time_text_placebo"
_EIGHT, _ALONE, _PRIOR = "office_eight_backbones", "office_item_text_alone", "beauty_prior_user_split"
_FIT, _FOLDS, _METHODS = "office_knowledge_fitted", "office_knowledge_user_folds", "office_knowledge_arena"
_CURVE, _SEARCHED, _SPLIT = "office_knowledge_curve", "office_knowledge_searched", "office_knowledge_searched_folds"
_COARSE = "beauty_eimf_preference_gru4rec"
_PARTED, _SECOND = "beauty_eimf_ablation_gru4rec", "arena_beauty_paper_gru4rec"
_BOTH_WAYS = "similar+next+previous"


def _pad(file: str) -> list[Cell]:
    masked = [mean(file, metric, True) for metric in ("hit@10", "ndcg@10")]
    free = [mean(file, metric, False) for metric in ("hit@10", "ndcg@10")]
    return [*masked, *(share(file, name, "hit@10") for name in _PAD_SLICES), *free]


def tables() -> list[tuple[str, str, int, list[Row | None] | None, list[Cell | None] | tuple[str, bool]]]:
    """Page, section, its how many-eth table, the JSON's name of every row (None: not looked at; no list: as they are
    called), and what each column after the first holds (file and masking: each column as it is headed)."""
    learned = f"{_BOTH_WAYS}, learned"
    frequency = f"{_BOTH_WAYS}, by frequency"
    worth = [
        "SASRec", "similar, learned", "both, learned", learned, f"{learned}/shuffled", (learned, f"{learned}/shuffled"),
        None, (learned, "both, learned"), "similar+together, learned", "all, learned", "all, learned/shuffled",
        ("all, learned", "all, learned/shuffled"), ("all, learned", "similar+together, learned"), frequency,
        f"{frequency}/shuffled", (frequency, f"{frequency}/shuffled"), None,
    ]  # fmt: skip
    four = [("ndcg@10", "all"), ("ndcg@50", "all"), ("recall@50", "all"), ("ndcg@10", _RARE)]
    methods = ["CTRL", "EIMF text alone", "AlphaFuse", "VQ-Rec", "EIMF", "ids plus text", "UniSRec", "SASRec"]
    before = (f"{{}}+{_BOTH_WAYS}", "{}+similar")
    against, words = (before[0], f"{before[0]}/shuffled"), ("title+profile", "title+profile/shuffled")
    both_ways = (f"{{}}, {_BOTH_WAYS}", f"{{}}, {_BOTH_WAYS}/shuffled")
    both, bare, hidden = (False, True), (False,), (True,)
    fifty = ("recall@50", "ndcg@10", "ndcg@50")
    well = [
        *_FLOORS, "SASRec", "three SASRec", "Hybrid", "Hybrid add", "MoRec", "CTRL", "MAKE", "DisCo", "SMEM", "PAD",
        "Hybrid add, d 128", "Hybrid add, d 256", "PAD strong", "GRU4Rec", "PAD[GRU4Rec]", "Caser", "PAD[Caser]",
    ]  # fmt: skip
    parts = ["EIMF", "without alignment", "without prediction", "item text alone", "placebo"]
    backbones = ["SASRec", "GRU4Rec", "BERT4Rec", "Caser", "MIND", "ComiRecSA", "ComiRecDR", "REMI"]
    paper = [f"{name}, paper" for one in ("SASRec", "ComiRecSA") for name in (one, f"EIMF({one})", f"placebo({one})")]
    return [
        ("README.md", "One honest table", 0, [*_FLOORS, "ItemKNN+text", *_THREE, *[None] * 5],
         together(_SHUFFLED, "hit@10", "ndcg@10", "ndcg@50", "recall@50", masked=hidden)),
        ("README.md", "One honest table", 0,
         [None] * 7 + ["SASRec+similar+together", "EIMF+similar+together"] + [None] * 3,
         [known(_PRIOR, metric) for metric in ("hit@10", "ndcg@10", "ndcg@50", "recall@50")]),
        ("README.md", "One honest table", 0, [None] * 9 + ["SASRec", "EIMF", "placebo"],
         together("beauty_eimf_paper_form_shuffled", "hit@10", "ndcg@10", "ndcg@50", "recall@50", masked=hidden)),
        ("README.md", "What would we deploy", 0, ["SASRec", "CTRL", "EIMF"],
         [*(known(_METHODS, "ndcg@10", of=of) for of in ("{}", "{}+similar+together", "{}+all")),
          *(known(_SEARCHED, "ndcg@10", of=of) for of in ("{}", "{}, similar+together", "{}, all"))]),
        ("docs/results/index.md", "Beauty, claim by claim", 0,
         [("SASRec", "DecayedItemKNN"), ("SASRec", "ItemKNN+text"), ("EIMF[SASRec]", "SASRec"),
          ("EIMF placebo[SASRec]", "SASRec"), ("EIMF[SASRec]", "EIMF placebo[SASRec]"),
          ("EIMF[SASRec]", "ItemKNN+text"), ("counts and texts[SASRec]", "SASRec"),
          None, None],
         [apart(file, masked, "ndcg@10", "recall@50") for file, masked in (
             ("beauty_user_split", False), (_SHUFFLED, False), (_SHUFFLED, True), (f"{_BOTH_ORDERS}_source", True),
             (_BOTH_ORDERS, True), (_LATER, True))]),
        ("docs/results/index.md", "Beauty, claim by claim", 0, [None] * 7 + [("ids plus text[SASRec]", "SASRec"), None],
         [None, *(apart(_WITH_TEXT, masked, "ndcg@10", "recall@50") for masked in (False, True)), None,
          *(apart(file, True, "ndcg@10", "recall@50") for file in (_BOTH_ORDERS, _LATER))]),
        ("docs/results/index.md", "Beauty, claim by claim", 0, [None] * 8 + [("text placebo[SASRec]", "SASRec")],
         [None, *(apart(_WITH_TEXT, masked, "ndcg@10", "recall@50") for masked in (False, True)), None,
          *(apart(f"beauty_{one}_text_placebo", True, "ndcg@10", "recall@50")
            for one in ("leave_one_out", "global_time"))]),
        ("docs/results/order.md", "Beauty, `user_split`, both", 1,
         ["SASRec",
          *(f"{one}[SASRec]" for one in ("ids plus text", "text placebo", "Hybrid add", "EIMF", "text"))],
         together(_WITH_TEXT, "hit@10", "ndcg@10", "ndcg@50", "recall@50")),
        (_EIMF, "The paper's form, whole, Office", 0, ["DecayedItemKNN", *paper],
         [*together(_PAPER, "recall@50", "hit@50", "ndcg@50"), gain(_PAPER, "recall@50", "{}, paper", *both),
          gain(_PAPER, "recall@50", "placebo({}), paper", *both)]),
        (_EIMF, "The paper's form, whole, Office", 1, ["REMI, paper", "EIMF(REMI), paper", "placebo(REMI), paper"],
         [*together(f"{_PAPER}_remi", "recall@50", "hit@50", "ndcg@50"),
          *(gain(f"{_PAPER}_remi", metric, "{}, paper", *both) for metric in ("ndcg@50", "recall@50")),
          gain(f"{_PAPER}_remi", "ndcg@50", "placebo({}), paper", *both)]),
        (_EIMF, "The paper's form, whole, Beauty", 0, ["SASRec", "EIMF", "placebo"],
         together("beauty_eimf_paper_form_shuffled", "hit@10", "ndcg@10", "ndcg@50", "recall@50", masked=hidden)),
        (_EIMF, "Beauty, `user_split`, four", 0,
         [*_FLOORS, *_SIX, "MIND", "EIMF[MIND]", "BERT4Rec", "EIMF[BERT4Rec]"], ("beauty_user_split", False)),
        (_EIMF, "Beauty, `user_split`, four", 1,
         [("EIMF over 4 backbones", "their backbones"), *((f"EIMF[{one}]", f"placebo[{one}]") for one in _TWO),
          ("EIMF over 2 backbones", "placebo over them")],
         [gain("beauty_user_split", metric, "", False) for metric in ("recall@20", "recall@50", "hit@50", "ndcg@50")]),
        (_EIMF, "Office, `user_split`, SASRec and REMI", 0, _SIX, ("office_sasrec_remi", False)),
        (_EIMF, "Office, `user_split`, SASRec with", 0, [*_THREE, "text[SASRec]"], ("office_strong_sasrec", False)),
        (_EIMF, "Office, `user_split`, eight", 0, [*backbones, None],
         [_pair(_EIGHT, of, "recall@50", "hit@50") for of in ("{}", "EIMF[{}]", "placebo[{}]")]),
        (_EIMF, "Office, `user_split`: EIMF against", 0, ["SASRec", "GRU4Rec", "BERT4Rec", "ComiRecSA", None],
         [*(_pair(_ALONE, of, "recall@50", "ndcg@50") for of in ("{}", "text[{}]", "placebo[{}]", "EIMF[{}]")),
          *(gain(_ALONE, "ndcg@50", over, False, of="EIMF[{}]") for over in ("text[{}]", "placebo[{}]"))]),
        (_EIMF, "Figure 3: EIMF", 0, ["backbone alone", *parts],
         together("office_eimf_ablation", "recall@50", "hit@50", "ndcg@50", masked=bare)),
        (_EIMF, "Figure 4: how", 0, ["backbone alone", "p = none", "p = -2", "p = -5", "p = -7", "p = -10"],
         [None, *together("office_eimf_preference", "recall@50", "ndcg@50", masked=bare)]),
        (_EIMF, "Figure 4 on Beauty", 0, ["backbone alone", *(f"p = {p}" for p in ("none", -2, -3, -4, -5, -10))],
         [None, *together(_COARSE, "recall@50", "ndcg@50"), gain(_COARSE, "recall@50", "backbone alone", True)]),
        (_EIMF, "Grocery", 0, None, ("grocery_behaviour_only", False)),
        (_EIMF, "Prime Pantry, `leave_one_out`, SASRec and REMI", 0, ["Markov", "DecayedItemKNN", *_SIX],
         [mean("prime_pantry_sasrec_remi", metric, mask) for mask in (True, False)
          for metric in ("hit@10", "hit@50", "ndcg@10", "ndcg@50")]),
        (_EIMF, "Prime Pantry, `leave_one_out`, SASRec with", 0,
         ["Markov", "DecayedItemKNN", *_THREE, "text[SASRec]"], ("prime_pantry_strong_sasrec", True)),
        (_EIMF, "Prime Pantry, `leave_one_out`, SASRec with", 1,
         [("EIMF[SASRec]", other) for other in ("SASRec", "placebo[SASRec]", "text[SASRec]")],
         [gain("prime_pantry_strong_sasrec", metric, "", True, corrected_only=True)
          for metric in ("hit@10", "ndcg@10", "hit@50", "ndcg@50")]),
        (_ORDER, "Beauty, `user_split`, both", 0, [None] * 5 + [*_THREE, None, None],
         [*together("beauty_user_split", *fifty, masked=bare), *together(_SHUFFLED, *fifty)]),
        (_ORDER, "Beauty, `user_split`, both", 0, [*_FLOORS, *_TEXT, *[None] * 5],
         [*together("beauty_floors_user_split_source", *fifty), *together(_SHUFFLED, *fifty)]),
        (_ORDER, "Beauty, `leave_one_out`, floors", 0, [*_FLOORS, *_TEXT],
         [mean(f"beauty_floors_leave_one_out_{order}", metric, True) for order in ("source", "shuffled")
          for metric in ("hit@10", "ndcg@10", "recall@50")]),
        (_ORDER, "Beauty, `leave_one_out`, with networks", 0, None,
         [*(mean(f"{_BOTH_ORDERS}{order}", metric, True) for order in ("_source", "")
            for metric in ("hit@10", "ndcg@10", "recall@50")),
          *(both_of(*(share(f"{_BOTH_ORDERS}{order}", part, "ndcg@10") for order in ("_source", "")))
            for part in ("tied", "untied"))]),
        (_ORDER, "Beauty, `leave_one_out`, with networks", 1, None,
         [*together(_BOTH_ORDERS, "hit@10", "ndcg@10", "ndcg@50", "recall@50", masked=hidden),
          *(share(_BOTH_ORDERS, part, "ndcg@10") for part in ("tied", "untied"))]),
        *((_ORDER, "Beauty, `leave_one_out`, with networks", 2, rows,
           [*together(file, "hit@10", "ndcg@10", "ndcg@50", "recall@50", masked=hidden),
            *(share(file, part, "ndcg@10") for part in ("tied", "untied", "1-5", ">20"))])
          for file, rows in (
              ("beauty_leave_one_out_backbones", ["GRU4Rec", "EIMF[GRU4Rec]", "REMI", "EIMF[REMI]", *[None] * 5]),
              ("beauty_leave_one_out_networks", [*[None] * 4, "ComiRecSA", "BERT4Rec", *[None] * 3]),
              ("beauty_leave_one_out_pad", [*[None] * 6, "SASRec", "Hybrid add[SASRec]", "PAD[SASRec]"]))),
        (_ORDER, "Beauty, `leave_one_out`, with networks", 3, None,
         [*together("beauty_leave_one_out_tuned", "hit@10", "ndcg@10", "ndcg@50", "recall@50", masked=hidden),
          gain("beauty_leave_one_out_tuned", "ndcg@10", "SASRec", True, corrected_only=True),
          searched("beauty_leave_one_out_tuned", "start"), searched("beauty_leave_one_out_tuned", "score")]),
        (_ORDER, "Beauty, `global_time`: how old", 0,
         ["Popularity", "Popularity, 7 days", "Markov", "Markov, 30 days", "DecayedItemKNN", "DecayedItemKNN, 30 days",
          None, None],
         [mean(f"beauty_floors_global_time{form}", metric, True) for form in ("", "_refit") for metric in fifty[:2]]),
        (_ORDER, "Beauty, `global_time`, with", 0, None, ("beauty_global_time", True)),
        (_ORDER, "Beauty, `global_time`, with", 1,
         ["floor", "floor placed", *((one, form) for one in ("SASRec", "EIMF-SASRec", "counts-and-texts-SASRec")
                     for form in ("as trained", "placed"))],
         [placed(part, metric) for part in ("all", "seen") for metric in fifty]
         + [placed("unseen", metric) for metric in ("recall@50", "ndcg@50")]),
        (_ORDER, "ML-1M", 0, [*_FLOORS, *_TEXT],
         [*(mean(f"ml1m_floors_leave_one_out_{order}", metric, True) for order in ("source", "shuffled")
            for metric in ("hit@10", "ndcg@10", "recall@50")),
          both_of(*(share(f"ml1m_floors_leave_one_out_{one}", "tied", "ndcg@10") for one in ("source", "shuffled")))]),
        (_ORDER, "ML-1M", 1, None, ("arena_ml1m_global_time", True)),
        (_ORDER, "Electronics: floors", 0, [*_FLOORS, *_TEXT],
         [*(mean(f"electronics_floors_leave_one_out_{order}", metric, True) for order in ("source", "shuffled")
            for metric in ("hit@10", "ndcg@10", "recall@50")),
          both_of(*(share(f"electronics_floors_leave_one_out_{one}", "tied", "ndcg@10")
                    for one in ("source", "shuffled")))]),
        (_ORDER, "ml-100k", 0, None, ("ml100k_global_time", True)),
        (_ORDER, "Office: histories", 0, [*_FLOORS, "SASRec", "shuffled_history[SASRec]"],
         ("office_shuffled_history", True)),
        *((_ORDER, "Beauty: histories", 0, rows,
           [*(mean(file, metric, True) for metric in ("ndcg@10", "hit@10", "ndcg@50", "recall@50")),
            *(share(file, part, "ndcg@10") for part in ("tied", "untied"))])
          for file, rows in (
              ("beauty_shuffled_history", [*_FLOORS, "shuffled_history[SASRec]", None]),
              (_BOTH_ORDERS, [None] * 4 + ["SASRec"]))),
        ("docs/results/arena.md", "The arena", 0, None,
         [None, *together(_ARENA, "ndcg@10", "hit@10", masked=hidden), share(_ARENA, "1-5", "ndcg@10"),
          gain(_ARENA, "ndcg@10", "SASRec", True, corrected_only=True),
          gain(_ARENA, "ndcg@10", "ids plus text[SASRec]", True, corrected_only=True)]),
        ("docs/results/arena.md", "The arena", 1, None,
         [None, *together(_PROFILES, "ndcg@10", "hit@10", masked=hidden), share(_PROFILES, "1-5", "ndcg@10"),
          gain(_PROFILES, "ndcg@10", "SASRec", True, corrected_only=True)]),
        ("docs/results/arena.md", "eSASRec with the draws", 0, ["SASRec", "eSASRec", None],
         [None, *together(_RELEASED, "ndcg@10", "hit@10", masked=hidden), share(_RELEASED, "1-5", "ndcg@10"),
          *(gain(_RELEASED, metric, "SASRec", True, corrected_only=True) for metric in ("ndcg@10", "hit@10"))]),
        ("docs/results/arena.md", "eSASRec with the draws", 1, ["SASRec", "eSASRec", "LLM-ESR[SASRec]", None],
         [None, *together(_AND_TUNED, "ndcg@10", "hit@10", masked=hidden), share(_AND_TUNED, "1-5", "ndcg@10"),
          *(gain(_AND_TUNED, metric, "SASRec", True, corrected_only=True) for metric in ("ndcg@10", "hit@10")),
          searched(_AND_TUNED, "start"), searched(_AND_TUNED, "score")]),
        ("docs/results/arena.md", "eSASRec with the draws", 2, ["SASRec, the same settings", "LLM-ESR"],
         [None, *together(_OWN, "ndcg@10", "hit@10", masked=hidden), share(_OWN, "1-5", "ndcg@10"),
          *(gain(_OWN, metric, "SASRec, the same settings", True, corrected_only=True)
            for metric in ("ndcg@10", "hit@10"))]),
        ("docs/results/arena.md", "eSASRec with the draws", 1, [None, None, None, "eSASRec"],
         [None, *together(_TUNED, "ndcg@10", "hit@10", masked=hidden), share(_TUNED, "1-5", "ndcg@10"),
          gain(_TUNED, "ndcg@10", "SASRec", True, corrected_only=True), None,
          searched(_TUNED, "start"), searched(_TUNED, "score")]),
        ("docs/results/arena.md", "eSASRec with the draws", 0, [None, None, "eSASRec"],
         [None, *together(_ARENA, "ndcg@10", "hit@10", masked=hidden), share(_ARENA, "1-5", "ndcg@10"),
          gain(_ARENA, "ndcg@10", "SASRec", True, corrected_only=True)]),
        ("docs/results/arena.md", "The arena", 2, None,
         [*together("arena_office_paper", "ndcg@10", "hit@10", masked=hidden),
          share("arena_office_paper", "1-5", "ndcg@10"),
          *(gain("arena_office_paper", "ndcg@10", f"{one}[SASRec]", True)
            for one in ("backbone paper", "EIMF paper placebo"))]),
        ("docs/results/arena.md", "Over GRU4Rec", 1, None,
         [*together("arena_office_paper_gru4rec", "ndcg@10", "hit@10", masked=hidden),
          share("arena_office_paper_gru4rec", "1-5", "ndcg@10"),
          *(gain("arena_office_paper_gru4rec", "ndcg@10", f"{one}[GRU4Rec]", True)
            for one in ("backbone paper", "EIMF paper placebo"))]),
        ("docs/results/arena.md", "Over GRU4Rec", 2, None,
         [*together(_PATIENT, "ndcg@10", "hit@10", masked=hidden),
          *(gain(_PATIENT, "ndcg@10", f"{one}[GRU4Rec]", True)
            for one in ("backbone paper", "EIMF paper placebo", "EIMF paper text alone"))]),
        ("docs/results/arena.md", "The paper's form over GRU4Rec on Beauty", 0, None,
         [*together(_SECOND, "ndcg@10", "hit@10", masked=hidden),
          *(gain(_SECOND, "ndcg@10", f"{one}[GRU4Rec]", True)
            for one in ("backbone paper", "EIMF paper placebo", "EIMF paper text alone"))]),
        (_ORDER, "Beauty, `leave_one_out`, over GRU4Rec", 0,
         [f"{one}[GRU4Rec]" for one in ("EIMF", "EIMF text alone", "EIMF placebo")],
         together("arena_beauty_gru4rec_controls", "ndcg@10", "hit@10", masked=hidden)),
        ("docs/results/order.md", "Beauty, `user_split`, over GRU4Rec", 0,
         [*_FLOORS, "GRU4Rec", "EIMF[GRU4Rec]", "EIMF placebo[GRU4Rec]"],
         together("arena_beauty_user_split_gru4rec", "hit@10", "ndcg@10")),
        ("docs/results/eimf.md", "Figure 3 on Beauty", 0, [*_FLOORS, "backbone alone", *parts],
         [*together(_PARTED, "recall@50", "hit@50", "ndcg@50"), gain(_PARTED, "recall@50", "backbone alone", True),
          gain(_PARTED, "recall@50", "EIMF", True)]),
        ("docs/results/arena.md", "Over a multi-interest", 1, None,
         [*together("arena_office_paper_remi", "ndcg@10", "hit@10", masked=hidden),
          share("arena_office_paper_remi", "1-5", "ndcg@10"),
          *(gain("arena_office_paper_remi", "ndcg@10", f"{one}[REMI]", True)
            for one in ("backbone paper", "EIMF paper placebo"))]),
        ("docs/results/arena.md", "With a search", 0, None,
         [None, *together(_TUNED, "ndcg@10", "hit@10", masked=hidden), share(_TUNED, "1-5", "ndcg@10"),
          gain(_TUNED, "ndcg@10", "SASRec", True, corrected_only=True),
          gain(_TUNED, "ndcg@10", "ids plus text[SASRec]", True, corrected_only=True),
          searched(_TUNED, "start"), searched(_TUNED, "score")]),
        ("docs/results/arena.md", "With a search", 1, [None, None, None, "LLM2BERT4Rec", None, None],
         [None, *together(_HIDDEN, "ndcg@10", "hit@10", masked=hidden), share(_HIDDEN, "1-5", "ndcg@10"), None, None,
          searched(_HIDDEN, "start"), searched(_HIDDEN, "score")]),
        *(("docs/results/arena.md", "With a search", 1, rows,
           [None, *together(file, "ndcg@10", "hit@10", masked=hidden), share(file, "1-5", "ndcg@10"),
            *(gain(file, metric, "SASRec", True, corrected_only=True) for metric in ("ndcg@10", "hit@10")),
            searched(file, "start"), searched(file, "score")])
          for file, rows in (
              ("arena_office_tuned_morec", ["SASRec", None, "MoRec[SASRec]", None, None, None]),
              ("arena_office_tuned_profiles", [*[None] * 4, "SASRec", "profile distillation[SASRec]"]),
              ("arena_office_tuned_pad", ["SASRec", "PAD[SASRec]", *[None] * 4]))),
        ("docs/results/arena.md", "Over a multi-interest", 0, None,
         [*together(_REMI, "ndcg@10", "hit@10", masked=hidden), share(_REMI, "1-5", "ndcg@10"),
          gain(_REMI, "ndcg@10", "REMI", True, corrected_only=True),
          gain(_REMI, "ndcg@10", "ids plus text[REMI]", True, corrected_only=True)]),
        ("docs/results/arena.md", "Over GRU4Rec", 0, None,
         [*together(_GRU, "ndcg@10", "hit@10", masked=hidden), share(_GRU, "1-5", "ndcg@10"),
          gain(_GRU, "ndcg@10", "GRU4Rec", True, corrected_only=True),
          gain(_GRU, "ndcg@10", "ids plus text[GRU4Rec]", True, corrected_only=True)]),
        ("docs/results/arena.md", "Beauty, in time", 0, None,
         [*together(_LATER, "ndcg@10", "hit@10", masked=hidden),
          *(share(_LATER, part, "ndcg@10") for part in ("seen", "unseen")),
          gain(_LATER, "ndcg@10", "SASRec", True, corrected_only=True),
          gain(_LATER, "ndcg@10", "ids plus text[SASRec]", True, corrected_only=True)]),
        *(("docs/results/arena.md", "Beauty, in time", number, rows,
           [*together(file, "ndcg@10", "hit@10", "ndcg@50", "recall@50", masked=hidden),
            *(share(file, part, "ndcg@10") for part in ("seen", "unseen")),
            gain(file, "ndcg@10", "SASRec", True, corrected_only=True)])
          for number, file, rows in (
              (1, "beauty_global_time_text", ["SASRec", "EIMF text alone[SASRec]", "EIMF[SASRec]"]),
              (2, "beauty_global_time_pad", ["SASRec", "PAD[SASRec]"]))),
        ("docs/results/arena.md", "Beauty, in time", 4, None,
         [*together(_MEANT, "ndcg@10", "hit@10", "ndcg@50", "recall@50", masked=hidden),
          *(share(_MEANT, part, "ndcg@10") for part in ("seen", "unseen")),
          gain(_MEANT, "ndcg@10", "SASRec", True, corrected_only=True)]),
        ("docs/results/arena.md", "Beauty, in time", 5, None,
         [*together(_OVER_REMI, "ndcg@10", "hit@10", "ndcg@50", "recall@50", masked=hidden),
          *(share(_OVER_REMI, part, "ndcg@10") for part in ("seen", "unseen")),
          gain(_OVER_REMI, "ndcg@10", "REMI", True, corrected_only=True),
          gain(_OVER_REMI, "ndcg@10", "EIMF placebo[REMI]", True, corrected_only=True)]),
        ("docs/results/arena.md", "Beauty, in time", 6, None,
         [*together(_NETWORKS, "ndcg@10", "hit@10", "ndcg@50", "recall@50", masked=hidden),
          *(share(_NETWORKS, part, "ndcg@10") for part in ("seen", "unseen"))]),
        ("docs/results/arena.md", "Beauty, in time", 3,
         ["SASRec", "backbone paper[SASRec]", "EIMF paper[SASRec]", "EIMF paper placebo[SASRec]", "EIMF[SASRec]"],
         [*together(_IN_PAPER, "ndcg@10", "hit@10", "ndcg@50", "recall@50", masked=hidden),
          *(share(_IN_PAPER, part, "ndcg@10") for part in ("seen", "unseen")),
          gain(_IN_PAPER, "ndcg@10", "backbone paper[SASRec]", True, corrected_only=True),
          gain(_IN_PAPER, "ndcg@10", "SASRec", True, corrected_only=True)]),
        (_PAD, "PAD and its baselines, Prime", 0, well, _pad("prime_pantry_pad_well_trained")),
        (_PAD, "PAD and its baselines, Prime", 1,
         ["SASRec", "three SASRec", "SMEM", "PAD", "Hybrid add, d 256", "PAD strong"],
         _pad("prime_pantry_pad_key_rows")),
        (_PAD, "Electronics", 0, None, _pad("electronics_pad_well_trained")),
        (_PAD, "Anchoring the alignment", 0, None,
         [*together("office_pad_alignment", "hit@10", "ndcg@10", masked=(True,)),
          gain("office_pad_alignment", "ndcg@10", "no alignment", True),
          gain("office_pad_alignment", "ndcg@10", "not anchored", True)]),
        (_PAD, "Kernels of the", 0, ["SASRec", "no alignment", "gaussian", "laplacian", "linear", "cosine", "InfoNCE"],
         [*together("office_pad_kernels", "hit@10", "ndcg@10", masked=(True,)),
          gain("office_pad_kernels", "ndcg@10", "no alignment", True),
          gain("office_pad_kernels", "ndcg@10", "gaussian", True)]),
        (_PAD, "Experts and gate", 0, ["SASRec", "PAD", "without the id expert", "without the text expert",
                                       "without the aligned expert", "id alone", "text alone", "aligned alone",
                                       "three id towers", "one weight for all items", "no gate"],
         [*together("office_pad_experts", "hit@10", "ndcg@10", masked=(True,)),
          gain("office_pad_experts", "ndcg@10", "PAD", True)]),
        (_PAD, "Text encoders", 0, ["SASRec", "TF-IDF", "MiniLM"],
         [*together("office_pad_encoders", "hit@10", "ndcg@10", masked=(True,)),
          gain("office_pad_encoders", "ndcg@10", "SASRec", True),
          gain("office_pad_encoders", "ndcg@10", "TF-IDF", True)]),
        (_PAD, "As published, in", 0, [None, "SASRec", "PAD", None, None, None, None],
         [None, *together("office_pad_published_seeds", "hit@10", "ndcg@10", masked=(True,)),
          *(gain("office_pad_published_seeds", metric, "SASRec", True) for metric in ("hit@10", "ndcg@10"))]),
        (_PAD, "As published, in", 0, [*[None] * 3, "PAD, fine-tuned ten times as fast", None, None, None],
         [None, *together("office_pad_published_fast", "hit@10", "ndcg@10", masked=(True,)),
          *(gain("office_pad_published_fast", metric, "SASRec", True) for metric in ("hit@10", "ndcg@10"))]),
        (_PAD, "As published, in", 0, [*[None] * 4, "SASRec", "PAD", "PAD, last phase at the authors' rate"],
         [None, *together("office_pad_published_rates", "hit@10", "ndcg@10", masked=(True,)),
          *(gain("office_pad_published_rates", metric, "SASRec", True) for metric in ("hit@10", "ndcg@10"))]),
        (_PAD, "As published: BCE", 0, None, _pad("prime_pantry_pad_published")),
        (_KNOWN, "What it is worth", 0, worth, [known(file, *one) for file in (_FIT, _FOLDS) for one in four]),
        (_KNOWN, "On top of other", 0, methods,
         [known(_METHODS, "ndcg@10", of=of) for of in ("{}", "{}+similar", f"{{}}+{_BOTH_WAYS}")]
         + [known(_METHODS, metric, part, "{}+all") for metric, part in [four[0], *four[2:]]]
         + [known(_METHODS, "ndcg@10", part, before) for part in ("all", _RARE)]),
        (_KNOWN, "Over searched", 0, ["SASRec", "CTRL", "EIMF", "EIMF text alone"],
         [*(known(_SEARCHED, "ndcg@10", of=of) for of in ("{}", "{}, similar", "{}, similar+together", *both_ways)),
          *(known(_SEARCHED, "ndcg@10", part, both_ways) for part in ("all", _RARE)),
          known(_SEARCHED, "ndcg@10", of="{}, all"),
          known(_SEARCHED, "ndcg@10", of=("{}, all", "{}, similar+together")),
          *(known(_SEARCHED, "ndcg@10", part, ("{}, all", "{}, all/shuffled")) for part in ("all", _RARE))]),
        (_KNOWN, "Searched networks, `user_split`", 0,
         [row for one in ("SASRec", "CTRL")
          for row in (one, f"{one}, similar+together", f"{one}, all", f"{one}, all/shuffled",
                      (f"{one}, all", f"{one}, all/shuffled"), (f"{one}, all", f"{one}, similar+together"))],
         [known(_SPLIT, *one) for one in (four[0], ("hit@10", "all"), *four[1:])]),
        (_KNOWN, "An expert of PAD's", 0, ["PAD", "next", "next placebo"],
         [*together("office_pad_next", "hit@10", "ndcg@10", masked=(True,)),
          gain("office_pad_next", "ndcg@10", "PAD", True), gain("office_pad_next", "ndcg@10", "next placebo", True),
          *(share("office_pad_next", seen, "ndcg@10") for seen in ("1-5", "6-20", ">20"))]),
        (_KNOWN, "How much data", 0, ["10 %", "25 %", "50 %", None],
         [known(_CURVE, "ndcg@10", of=of) for of in ("{}", "{}+similar", *against)]
         + [known(_CURVE, "ndcg@10", part, against) for part in ("all", _RARE)]),
        (_KNOWN, "Short and long", 0,
         ["SASRec", "similar, learned", learned, f"{learned}/shuffled", (learned, f"{learned}/shuffled"),
          "similar+together, learned", "all, learned", "all, learned/shuffled",
          ("all, learned", "all, learned/shuffled")],
         [known("office_knowledge_history", "ndcg@10", f"history of {of}") for of in ("1-5", "6-20", "> 20")]),
        (_KNOWN, "EIMF's interests beside", 0, ["EIMF", "EIMF placebo", "EIMF text alone", None, None],
         [known(_METHODS, "ndcg@10", part) for part in ("all", _RARE)]
         + [known(_METHODS, *one, before[0]) for one in (four[0], four[1], four[3])]),
        (_KNOWN, "Without any training", 0,
         ["ItemKNN", "NextKNN title", *(f"NextKNN {one}" for one in words), "ItemKNN+text title",
          *(f"ItemKNN+text+next {one}" for one in ("title", "title/shuffled", *words))],
         [known("office_knowledge_floors_leave_one_out", *one) for one in four]),
        (_KNOWN, "`leave_one_out`", 0,
         ["SASRec", *(f"SASRec+similar {one}" for one in ("title", words[0])),
          *(f"SASRec+both {one}" for one in ("title", "title/shuffled", *words))],
         [None, *(known("office_knowledge_leave_one_out", *one) for one in four)]),
        (_KNOWN, "Over EIMF", 0,
         ["EIMF text title", *(f"EIMF text title+{one} title" for one in ("similar", "both")),
          "EIMF text title+both title/shuffled"],
         [known("office_knowledge_eimf_leave_one_out", *one) for one in four]),
        (_KNOWN, "`user_split`, one split", 0,
         ["SASRec", "SASRec+similar title", "SASRec+both title", "SASRec+both title/shuffled",
          ("SASRec+both title", "SASRec+both title/shuffled")],
         [known("office_knowledge_user_split", *one) for one in (*four, ("ndcg@50", _RARE))]),
        (_KNOWN, "Labels and vectors", 0,
         ["SASRec", "next labels", "next labels/shuffled", "next vectors", "next vectors/shuffled", "similar vectors"],
         [known("office_knowledge_ways_25_percent", *one) for one in (four[0], four[1], four[3])]),
    ]  # fmt: skip


def _pair(file: str, of: str, first: str, second: str) -> Cell:
    """Two metrics in a cell, histories not masked."""
    return lambda row: mean(file, first, False, of=of)(row) + mean(file, second, False, of=of)(row)


@pytest.mark.parametrize(
    ("page", "heading", "number", "rows", "columns"),
    [pytest.param(*one, id=f"{one[0]}-{one[1]}-{one[2]}") for one in tables()],
)
def test_a_table_prints_what_its_json_holds(page, heading, number, rows, columns):
    header, *body = table(page, heading, number)
    columns = headed(*columns, header) if isinstance(columns, tuple) else columns
    names = [line[0].strip("*`") for line in body] if rows is None else rows
    assert len(names) == len(body), f"{page}: {heading}: {len(body)} rows, the JSON's names are {names}"
    seen, differ = set(), {}
    for name, line in zip(names, body, strict=True):
        for index, (cell, column) in enumerate(zip(line[1:], columns, strict=False)):
            if name is None or column is None or not numbers(cell):
                continue
            seen.add(index)
            if wrong(cell, column(name)):
                differ[line[0], header[index + 1]] = (cell, column(name))
    assert differ == {}
    assert len(seen) == sum(column is not None for column in columns)


@pytest.mark.parametrize(
    ("cell", "held"),
    [
        ("**7.48 ± 0.04**\\*", [[7.4849, 0.0351]]),
        ("27.44 / 27.90", [[27.436, 1.4], [27.899, None]]),
        ("+12.2 % (0.0001; 0.001)", [[12.25, 9.999e-05, 0.0008]]),
        ("-0.2 % (0.90; 1)", [[-0.151303, 0.89741, 1.0]]),
    ],
)
def test_a_cell_is_what_its_figures_round_to(cell, held):
    assert not wrong(cell, held)
    first = held[0][0]
    assert wrong(cell, [[first + 0.2, *held[0][1:]], *held[1:]])
    assert wrong(cell, [[-first, *held[0][1:]], *held[1:]])
    assert wrong(cell, [[first, *(None for _ in held[0][1:])], *([None] for _ in held[1:])])


def test_every_file_of_results_is_named_by_a_page_and_every_name_is_a_file():
    pages = [ROOT / "README.md", ROOT / "benchmarks/README.md", *ROOT.glob("docs/**/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    files = {file.stem for file in ROOT.glob("benchmarks/results/*.json")}
    named = set(re.findall(r"`(?:[\w/]+/)?([\w*]+)\.(?:json|py)\b", text))
    assert [file for file in sorted(files) if not any(fnmatch(file, name) for name in named)] == []
    assert set(re.findall(r"results/(\w+)\.json", text)) - files == set()


@pytest.mark.parametrize("file", sorted(path.stem for path in (ROOT / "benchmarks/results").glob("arena_*.json")))
def test_every_trained_row_of_the_arena_has_all_seeds_that_the_page_speaks_of(file):
    whole = result(file)
    assert len(whole["seeds"]) == 3
    assert {row["name"]: len(row["runs"]) for row in whole["rows"] if not counting(row)} == {
        row["name"]: 3 for row in whole["rows"] if not counting(row)
    }
