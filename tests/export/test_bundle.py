"""The files of an export: reproducible, complete, and readable by others' tools."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from litert_lm_builder import litertlm_builder, litertlm_peek

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.models.kv_cache import check_shared
from gemma_mtp.export.options import resolve_options
from gemma_mtp.export.pipeline import export
from gemma_mtp.export.progress import Reporter
from gemma_mtp.runtime.bundle.constants import read_constants
from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.errors import UserError
from tests.conftest import CONTEXT, DRAFT_TOKENS, DRAFTER, PREFILL, TARGET, BundleOf, Exports
from tests.support.metadata import Planted, planted_metadata
from tests.support.sections import set_places

ALONE = {"model.litertlm", "manifest.json"}
FILES = {*ALONE, "prefill_decode.tflite", "embedder.tflite", "per_layer_embedder.tflite", "mtp_drafter.tflite"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_manifest_lists_every_file_with_its_hash(small_int8: Path) -> None:
    manifest = json.loads((small_int8 / "manifest.json").read_text())
    assert {path.name for path in small_int8.iterdir()} == FILES
    assert manifest["files"].keys() == FILES - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (small_int8 / name).stat().st_size, "sha256": sha256(small_int8 / name)}
    assert manifest["sources"]["target"]["sha256"]["model.safetensors"] == sha256(TARGET / "model.safetensors")
    assert manifest["options"]["recipe"]["name"] == "int8"
    assert manifest["packages"]["litert-torch"]
    assert set(manifest["models"]["prefill_decode"]["signatures"]) == {"prefill_8", "prefill_32", "decode", "verify"}


def test_two_exports_are_byte_identical(exports: Exports, small_int8: Path, tmp_path: Path) -> None:
    pair = open_pair(str(TARGET), str(DRAFTER))
    options = resolve_options(
        pair.target_config, context_length=CONTEXT, prefill_lengths=PREFILL, draft_tokens=DRAFT_TOKENS, weights="int8"
    )
    reporter = Reporter(None, quiet=True)
    export(pair, options, tmp_path / "again", reporter, skeleton_cache=exports.skeletons)
    # Nobody has asked for the .tflite files this time.
    assert {path.name for path in (tmp_path / "again").iterdir()} == ALONE
    assert (tmp_path / "again" / "model.litertlm").read_bytes() == (small_int8 / "model.litertlm").read_bytes()
    first, second = (json.loads((folder / "manifest.json").read_text()) for folder in (small_int8, tmp_path / "again"))
    assert first["files"].keys() == FILES - {"manifest.json"}
    first["files"] = {"model.litertlm": first["files"]["model.litertlm"]}
    assert first == second


@pytest.mark.parametrize("bundle", ["small_fp32", "small_int8"])
def test_container_is_the_builders_of_whole_files(bundle: str, bundle_of: BundleOf, tmp_path: Path) -> None:
    """LiteRT-LM's own builder, given finished files, writes the same bytes but for identity and time, and the places of
    sections of which one holds the end of the other."""
    folder = bundle_of(bundle)
    whole = rebuilt(folder, tmp_path)
    ours, theirs = BundleFile(folder / "model.litertlm"), BundleFile(whole)
    begin = min(section.begin for section in ours.sections)
    expected = bytearray(whole.read_bytes()[:begin])
    for key in ("uuid", "creation_timestamp"):
        old, new = (bundle.system_metadata[key].encode() for bundle in (theirs, ours))
        expected = expected.replace(old, new)
    set_places(expected, [(section.begin, section.end) for section in ours.sections])
    expected.extend(bytes(ours.path.stat().st_size - begin))
    for place, section in zip(ours.sections, theirs.sections, strict=True):
        expected[place.begin : place.end] = theirs.content(section)
    assert ours.path.read_bytes() == bytes(expected)


@pytest.mark.parametrize(("bundle", "bits"), [("small_fp32", 32), ("small_int8", 8)])
def test_embedder_and_head_are_one_table(bundle: str, bits: int, bundle_of: BundleOf, tmp_path: Path) -> None:
    folder, table = bundle_of(bundle), 2048 * 192 * bits // 8
    inspection = inspect_bundle(folder)
    opened = inspection.bundle
    embedder, target = (opened.model_sections()[name] for name in ("embedder", "prefill_decode"))
    found = opened.shared(embedder)
    assert found == (target, embedder.end - target.begin)
    in_both = [read_constants(opened.content(section), "model").constants for section in (embedder, target)]
    places = [
        (section.begin + constant.place[0], section.begin + constant.place[1])
        for section, constants in zip((embedder, target), in_both, strict=True)
        for constant in constants
        if constant.name == "embed_tokens.weight"
    ]
    assert places[0][1] - places[0][0] == table
    assert len(set(places)) == 1
    assert opened.path.stat().st_size + table < planted_metadata(folder, Planted(), tmp_path).stat().st_size
    sections = {entry["model_type"]: entry for entry in inspection.as_dict()["sections"]}
    assert sections["embedder"]["shared"] == {"with": "prefill_decode", "bytes": found[1]}
    assert "shared" not in sections["prefill_decode"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["models"]["embedder"]["weights"]["embed_tokens.weight"]["bytes_of"] == "prefill_decode"


def test_a_section_that_ends_before_its_table_is_refused(small_int8: Path, tmp_path: Path) -> None:
    opened = BundleFile(small_int8 / "model.litertlm")
    content = bytearray(opened.path.read_bytes())
    cut = {"embedder": 64}
    set_places(content, [(s.begin, s.end - cut.get(s.model_type or "", 0)) for s in opened.sections])
    (tmp_path / "model.litertlm").write_bytes(content)
    with pytest.raises(UserError, match=r"\(embedder\).*buffer \d+ ends at byte"):
        inspect_bundle(tmp_path)


def rebuilt(folder: Path, work: Path) -> Path:
    """The bundle of an export, packed again from its .tflite files by LiteRT-LM's builder."""
    bundle, builder = BundleFile(folder / "model.litertlm"), litertlm_builder.LitertLmFileBuilder()
    for key, value in bundle.system_metadata.items():
        if key not in ("uuid", "creation_timestamp"):  # The builder writes its own.
            builder.add_system_metadata(litertlm_builder.Metadata(key, value, litertlm_builder.DType.STRING))
    for section in bundle.sections:
        file = work / f"{section.name}.bin"
        if section.model_type:
            kind = litertlm_builder.TfLiteModelType[section.model_type.upper()]
            builder.add_tflite_model(str(folder / f"{section.model_type}.tflite"), kind)
        elif section.kind == "HF_Tokenizer_Zlib":
            builder.add_hf_tokenizer(str(TARGET / "tokenizer.json"))
        else:
            file.write_bytes(bundle.content(section))
            add = {"LlmMetadataProto": builder.add_llm_metadata, "ExecutorMetadataProto": builder.add_executor_metadata}
            add[section.kind](str(file))
    with (work / "whole.litertlm").open("w+b") as stream:
        builder.build(stream)
    return work / "whole.litertlm"


def test_identity_follows_from_the_contents(small_fp32: Path, small_int8: Path) -> None:
    ids = {BundleFile(folder / "model.litertlm").system_metadata["uuid"] for folder in (small_fp32, small_int8)}
    assert len(ids) == 2


def test_tracing_is_reproducible(small_fp32: Path, tmp_path: Path) -> None:
    """A graph traced anew, without the cache, is the same file."""
    from gemma_mtp.export.graphs.signatures import drafter_signature, embedder_signature
    from gemma_mtp.export.graphs.tracing.convert import convert
    from gemma_mtp.export.models.kv_cache import cache_length, kv_signature

    pair = open_pair(str(TARGET), str(DRAFTER))
    kv = kv_signature(pair.target_config, pair.drafter_config, cache_length(64, 4))
    signatures = [
        drafter_signature(pair.target_config, pair.drafter_config, kv),
        embedder_signature(pair.target_config),
    ]
    assert convert(signatures) == convert(signatures)


def test_builders_own_tool_reads_the_bundle(small_int8: Path) -> None:
    output = io.StringIO()
    litertlm_peek.peek_litertlm_file(str(small_int8 / "model.litertlm"), None, output)
    for model_type in ("prefill_decode", "embedder", "per_layer_embedder", "mtp_drafter"):
        assert f"tf_lite_{model_type}" in output.getvalue()


def test_sections_are_the_single_files(small_int8: Path) -> None:
    inspection = inspect_bundle(small_int8 / "model.litertlm")
    for name, section in inspection.bundle.model_sections().items():
        assert bytes(inspection.bundle.content(section)) == (small_int8 / f"{name}.tflite").read_bytes()


def test_metadata_states_everything_the_runtime_would_guess(small_int8: Path) -> None:
    bundle = inspect_bundle(small_int8 / "model.litertlm").bundle
    metadata, executor = bundle.llm_metadata, bundle.executor_metadata.llm_executor_metadata
    assert list(metadata.start_token.token_ids.ids) == [2]
    assert [list(stop.token_ids.ids) for stop in metadata.stop_tokens] == [[1], [5]]
    assert metadata.max_num_tokens == CONTEXT
    assert metadata.llm_model_type.WhichOneof("model_type") == "gemma4"
    assert metadata.jinja_prompt_template.endswith((TARGET / "chat_template.jinja").read_text())
    assert {buffer.prefill_input_name for buffer in executor.state_buffers} == {
        f"kv_cache_{kind}_{layer}" for kind in "kv" for layer in range(5)
    }
    assert executor.attention_mask_settings.sliding_window_size == 64
    assert bundle.tokenizer() == ("json", (TARGET / "tokenizer.json").read_bytes())


def test_inspection_finds_nothing_wrong(small_int8: Path, dense_head: Path) -> None:
    inspection = inspect_bundle(small_int8 / "model.litertlm")
    assert inspection.problems() == []
    assert (inspection.draft_tokens, inspection.head) == (4, "clustered")
    assert inspect_bundle(dense_head / "model.litertlm").head == "dense"
    shared = inspection.as_dict()["speculative_decoding"]["shared_kv"]
    assert set(shared) == {"kv_cache_k_3", "kv_cache_k_4", "kv_cache_v_3", "kv_cache_v_4"}
    assert inspection.as_dict()["context_length"] == CONTEXT


def test_further_verify_lengths_share_all_weights(small_int8: Path, small_lengths: Path) -> None:
    plain, further = (inspect_bundle(folder / "model.litertlm") for folder in (small_int8, small_lengths))
    assert (further.draft_tokens, further.further_draft_tokens) == (4, [2, 8])
    assert further.problems() == []
    names = [signature.name for signature in further.models["prefill_decode"].signatures]
    assert names == ["prefill_8", "prefill_32", "decode", "verify", "verify_2", "verify_8"]
    int8 = [inspection.models["prefill_decode"].constant_bytes["int8"] for inspection in (plain, further)]
    assert int8[0] == int8[1]


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        ({"kv_cache_k_9": ((1, 1, 8, 4), "float32")}, "does not write"),
        ({"kv_cache_k_3": ((1, 1, 9, 4), "float32")}, "9"),
    ],
)
def test_shared_kv_check_fails_on_a_cache_that_the_target_does_not_write(read: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_shared({"kv_cache_k_3": ((1, 1, 8, 4), "float32")}, read)


@pytest.mark.parametrize("scatter", [False, True])
def test_token_ids_stay_exact_at_the_full_vocabulary(scatter: bool) -> None:
    """262,144 ids do not fit float16 or uint16; neither way back to token order may lose any."""
    from gemma_mtp.export.checkpoint.config import AttentionConfig, DrafterConfig
    from gemma_mtp.export.checkpoint.values import inverse_ordering
    from gemma_mtp.export.models.clustered_head import clustered_logits

    vocabulary, clusters, hidden_size, chosen = 262_144, 2048, 4, 32
    generator = torch.Generator().manual_seed(0)
    ordering = torch.randperm(vocabulary, generator=generator)
    places = inverse_ordering(ordering)
    assert places.dtype == torch.int32
    assert torch.equal(ordering[places.long()], torch.arange(vocabulary))
    attention = AttentionConfig(4, 1, 1e4, 2, None)
    config = DrafterConfig(
        vocab_size=vocabulary, hidden_size=hidden_size, intermediate_size=4, double_wide_mlp=False,
        layer_types=("full_attention",), query_heads=1, sliding=attention, full=attention, kv_shared_layers=1,
        rms_norm_eps=1e-6, final_logit_softcapping=None, ple_dim=0, ple_vocab_size=0, backbone_hidden_size=4,
        clusters=clusters, chosen_clusters=chosen,
    )  # fmt: skip
    table = torch.randn(vocabulary, hidden_size, generator=generator)
    weights = {
        "masked_embedding.centroids.weight": torch.randn(clusters, hidden_size, generator=generator),
        "clustered_head.rows": table[ordering].reshape(clusters, -1),
        "clustered_head.scales": torch.ones(clusters, vocabulary // clusters),
        "clustered_head.inverse_ordering": places,
        "clustered_head.tokens": ordering.int().reshape(clusters, -1),
    }
    hidden = torch.randn(1, 1, hidden_size, generator=generator)
    logits = clustered_logits(config, weights, hidden, scatter=scatter)[0, 0]
    best = (weights["masked_embedding.centroids.weight"] @ hidden[0, 0]).topk(chosen).indices
    candidates = ordering.view(clusters, -1)[best].flatten()
    torch.testing.assert_close(logits[candidates], table[candidates] @ hidden[0, 0])
    others = torch.ones(vocabulary, dtype=torch.bool)
    others[candidates] = False
    assert bool((logits[others] == -3e4).all())


def test_embedders_equal_the_scaled_tables(small_fp32: Path) -> None:
    from safetensors import safe_open

    with safe_open(TARGET / "model.safetensors", framework="pt") as file:
        table = file.get_tensor("model.language_model.embed_tokens.weight").float()
    embedder = Interpreter(str(small_fp32 / "embedder.tflite")).get_signature_runner("embedder")
    for token in (0, 2, 2047):
        found = embedder(token_ids=np.array([[token]], dtype=np.int32))["embeddings"]
        np.testing.assert_array_equal(found[0, 0], (table[token] * 192**0.5).numpy())
