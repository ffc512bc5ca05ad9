"""The head is the one that transformers gives the model: in the oracle, in the export, and `verify` sees a lost one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.oracle.streaming import stored_names
from gemma_mtp.runtime.parity.report.report import Verdict
from gemma_mtp.runtime.parity.verify import verify
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import DRAFTER, TARGET, Exports

EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
TOKENS = torch.randint(20, 2000, (30,), generator=torch.Generator().manual_seed(5)).tolist()
OPTIONS = VerifyOptions((Prompt(text="def area(self):"),), max_tokens=8, probe_tokens=40, stock=False, threads=2)


def with_head(
    source: Path, folder: Path, *, embedding: str, tied: bool, equal: bool = False, head: str = HEAD, drop: str = ""
) -> Path:
    """A copy of a checkpoint with a head near its embedding, and the tensor `drop` left out."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    values = tensors[embedding].float()
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)) * values.std()
    tensors[head] = (values if equal else values + noise / 2).to(torch.bfloat16)
    tensors.pop(drop, None)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    return folder


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "untied": ({"tied": False}, True),
    "said to be tied, but different": ({"tied": True}, True),
    "said to be tied, and equal": ({"tied": True, "equal": True}, True),
    "tied, and only the head is there": ({"tied": True, "drop": EMBEDDING}, False),
    "untied, in a wrapper": ({"tied": False, "head": "model.lm_head.weight"}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_head_is_transformers(case: str, tmp_path: Path) -> None:
    settings, own = CASES[case]
    target = with_head(TARGET, tmp_path / "target", embedding=EMBEDDING, **settings)
    pair = open_pair(str(target), str(DRAFTER))
    assert pair.target_config.own_head == own
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    read = pair.target.read("lm_head.weight" if own else "embed_tokens.weight")
    assert torch.equal(read, model.lm_head.weight)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([TOKENS])).logits[0]
    run = open_oracle(pair).run(TOKENS, range(len(TOKENS)))
    np.testing.assert_allclose(run.logits, expected.numpy(), atol=5e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_drafters_head_is_transformers(tied: bool, tmp_path: Path) -> None:
    drafter = with_head(DRAFTER, tmp_path / "drafter", embedding="model.embed_tokens.weight", tied=tied)
    pair = open_pair(str(TARGET), str(drafter))
    assert pair.drafter_config.own_head
    model: Any = AutoModelForCausalLM.from_pretrained(drafter, dtype=torch.float32).eval()
    ours = open_oracle(pair).drafter.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    assert not torch.equal(ours["lm_head.weight"], ours["model.embed_tokens.weight"])


def test_untied_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    """transformers would make up random values, and say so in a warning."""
    target = with_head(TARGET, tmp_path / "target", embedding=EMBEDDING, tied=False, drop=HEAD)
    with pytest.raises(UserError, match=r"has no lm_head\.weight, in place of which .* random values"):
        open_pair(str(target), str(DRAFTER))
    checkpoint = open_pair(str(TARGET), str(DRAFTER)).target
    with pytest.raises(UserError, match=r"no lm_head\.weight"):
        stored_names(["lm_head.weight"], checkpoint, tied=False)


def test_heads_of_their_own_are_exported_and_a_lost_one_is_seen(
    exports: Exports, small_fp32: Path, tmp_path: Path
) -> None:
    """The tied pair's bundle is what an export makes that takes every head for the embedding."""
    target = with_head(TARGET, tmp_path / "target", embedding=EMBEDDING, tied=False)
    drafter = with_head(DRAFTER, tmp_path / "drafter", embedding="model.embed_tokens.weight", tied=False)
    oracle = open_oracle(open_pair(str(target), str(drafter)))
    bundle = exports("own-heads", target, drafter)
    report = verify(bundle, oracle, OPTIONS)
    assert report.passed, report.summary()
    own, tied = (BundleFile(folder / "model.litertlm") for folder in (bundle, small_fp32))
    assert own.shared(own.model_sections()["embedder"]) is None
    assert own.path.stat().st_size == tied.path.stat().st_size + 4 * 2048 * 192  # A tied head shares the embedding.
    assert failed_stages(small_fp32, oracle)[:2] == ["weights", "decode and verify"]

    lost = open_oracle(open_pair(str(TARGET), str(drafter)))
    assert failed_stages(small_fp32, lost)[:2] == ["weights", "drafter"]


def failed_stages(bundle: Path, oracle: Oracle) -> list[str]:
    return [stage.name for stage in verify(bundle, oracle, OPTIONS).stages if stage.verdict is Verdict.FAIL]
