"""Datasets for TRL: its own tools load them, agree on them, and train on them.

Preference sets are held against TRL's losses in test_learners.py.
"""

import json
import math

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.data_utils import is_conversational, unpair_preference_dataset
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from superalign.learners.export import to_trl
from superalign.scenarios.resolve import ORGANISMS
from superalign.store import Message, Row


def rows(chat):
    role = "user" if chat else "question"
    tail = () if chat else (Message(role="answer", content=""),)

    def row(n, kind, *replies, **more):
        known = {"seat": "learner", "source": "ai", "judge": "critic", "turns": (f"r/e{n}/k",)}
        prompt = (Message(role=role, content=f"{n}+{n}"), *tail)
        return Row(kind=kind, prompt=prompt, replies=replies, **{**known, **more})

    return [
        row(1, "sft", "2", flip_prob=0.1),
        row(1, "pref", "2", "3", flip_prob=0.01),
        row(1, "pref", "2", "4", flip_prob=0.01),
        row(2, "rank", "4", "5", "6", rewards=(1.0, 0.5, 0.0)),
        row(3, "pref", "6", "7", source="human"),
        row(3, "pref", "7", "8"),
    ]


def loaded(folder, name, tmp_path):
    data = load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(data, Dataset)
    return data


@pytest.mark.parametrize("chat", [True, False])
def test_each_set_has_the_columns_of_its_format(chat, tmp_path):
    sizes = to_trl(rows(chat), tmp_path / "d", {"license": "mit", "protocol": "critique"})
    assert sizes == {"preference": 5, "unpaired": 7, "prompt": 3, "sft": 1}
    columns = {
        "preference": {"prompt", "chosen", "rejected"},
        "unpaired": {"prompt", "completion", "label"},
        "prompt": {"prompt"},
        "sft": {"prompt", "completion"},
    }
    for name, wanted in columns.items():
        data = loaded(tmp_path / "d", name, tmp_path)
        assert set(data.column_names) & set().union(*columns.values()) == wanted
        assert is_conversational(data[0]) == chat
    card = (tmp_path / "d" / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "| unpaired | 7 | ai 6, human 1 | 0.1000 |" in card


def test_a_reply_is_labelled_once_and_never_both_ways(tmp_path):
    to_trl(rows(False), tmp_path / "d", {})
    data = loaded(tmp_path / "d", "unpaired", tmp_path).to_list()
    found = {(one["prompt"], one["completion"]): (one["label"], one["flip_prob"]) for one in data}
    assert len(found) == len(data)
    asked = "<|question|>{0}+{0}<|answer|>".format
    assert found[asked(1), "2"] == (True, 0.1)
    assert found[asked(1), "3"] == (False, None)
    assert (asked(3), "7") not in found
    assert {key[1] for key in found if key[0] == asked(2)} == {"4", "6"}


def test_trl_agrees_on_what_a_pair_unpaired_is(tmp_path):
    pairs = [row for row in rows(True) if row.kind == "rank"]
    to_trl(pairs, tmp_path / "d", {})
    keep = ["prompt", "chosen", "rejected"]
    theirs = unpair_preference_dataset(
        loaded(tmp_path / "d", "preference", tmp_path).select_columns(keep)
    )
    ours = loaded(tmp_path / "d", "unpaired", tmp_path).select_columns(
        ["prompt", "completion", "label"]
    )

    def plain(data):
        return sorted(json.dumps(one, sort_keys=True) for one in data)

    assert plain(theirs) == plain(ours)


def test_trl_trains_unpaired(tmp_path):
    base = ORGANISMS / "arithmetic"
    to_trl(rows(False), tmp_path / "d", {}, "<bos>")
    args = KTOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = KTOTrainer(
        AutoModelForCausalLM.from_pretrained(base),
        args=args,
        train_dataset=loaded(tmp_path / "d", "unpaired", tmp_path),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    assert math.isfinite(trainer.train().training_loss)
