"""Sentence encoders: pooling, linear maps and unit length, beside sums by hand and beside the
package sentence-transformers."""

import json

import pytest
import torch
from safetensors.torch import save_file

from amodal.core import AmodalError, Column
from amodal.modalities import make
from amodal.nn.backbones.libraries import text_input
from amodal.nn.backbones.pretrained import Backbone, backbone
from amodal.nn.backbones.sentence_vectors import POOLINGS, pooled

transformers = pytest.importorskip("transformers")
WORDS = ["a", "red", "green", "apple", "pear", "and", "query", ":"]
TEXTS = ["a red apple and a green pear", "pear", "and and a"]


def write(path, **file):
    for name, content in file.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT with a mean, a linear map and unit length, as the package wrote it before 6."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: i for i, w in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    wrapped.save_pretrained(tmp_path)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, max_position_embeddings=30, **shape
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate([*kinds, ("3_Normalize", "Normalize")])
    ]
    write(tmp_path, modules=modules, sentence_bert_config={"max_seq_length": 12})
    for name in ("1_Pooling", "2_Dense"):
        (tmp_path / name).mkdir()
    write(
        tmp_path / "1_Pooling",
        config={"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True},
    )
    write(
        tmp_path / "2_Dense",
        config={
            "in_features": 24,
            "out_features": 6,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    dense = {"linear.weight": torch.randn(6, 24) * 0.2, "linear.bias": torch.randn(6)}
    save_file(dense, tmp_path / "2_Dense" / "model.safetensors")
    return tmp_path


def made(path, texts=TEXTS, width=8, **options):
    spec = f"sentence-transformers:{path}"
    vocabulary, room = text_input(spec, make("text"), path)
    field = make("text", vocabulary=vocabulary, patch=1, max_length=room)
    column = Column(field.collate([field.decode(t) for t in texts]), torch.arange(len(texts)))
    return backbone(spec, field, width, **options), column


def test_a_vector_is_the_mean_mapped_and_of_unit_length(folder):
    built, column = made(folder)
    got, lengths, _ = built.features(column)
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dense = transformers.modeling_utils.load_state_dict(folder / "2_Dense" / "model.safetensors")
    for text, vector in zip(TEXTS, got):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            state = model(**inputs).last_hidden_state[0].mean(0)  # [CLS] and [SEP] count
            want = torch.tanh(dense["linear.weight"] @ state + dense["linear.bias"])
        torch.testing.assert_close(vector, want / want.norm())
    assert lengths.tolist() == [1, 1, 1] and built.body.is_space
    rebuilt = Backbone.from_args(**built._args)
    rebuilt.load_state_dict(built.state_dict())
    assert torch.equal(rebuilt.features(column)[0], got)


def test_vectors_are_those_of_the_package(folder):
    package = pytest.importorskip("sentence_transformers")
    theirs = package.SentenceTransformer(str(folder), device="cpu")
    built, column = made(folder)
    want = torch.from_numpy(theirs.encode(TEXTS))
    torch.testing.assert_close(built.features(column)[0], want, rtol=1e-5, atol=1e-6)
    theirs.save(str(folder / "new"))  # the package's newest format
    built, column = made(folder / "new")
    torch.testing.assert_close(built.features(column)[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", POOLINGS)
def test_poolings_by_hand(mode):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    for row, places in enumerate(([1, 2], [0, 1, 2, 3])):
        x = states[row, places]
        weights = torch.tensor([place + 1.0 for place in places], dtype=torch.float64)
        want = {
            "cls": x[0],
            "lasttoken": x[-1],
            "max": torch.stack([max(column) for column in x.T]),
            "mean": sum(x) / len(x),
            "mean_sqrt_len_tokens": sum(x) / len(x) ** 0.5,
            "weightedmean": sum(w * v for w, v in zip(weights, x)) / sum(weights),
        }[mode]
        torch.testing.assert_close(pooled(states, mask, [mode])[row], want)
    both = pooled(states, mask, [mode, "mean"])
    assert both.shape == (2, 6)
    torch.testing.assert_close(both[:, 3:], pooled(states, mask, ["mean"]))


def test_the_prompt_before_every_text_and_the_longest_text(folder):
    plain, column = made(folder, ["query : pear"])
    want = plain.features(column)[0]
    prompts = {"prompts": {"query": "query : "}, "default_prompt_name": "query"}
    write(folder, config_sentence_transformers=prompts)
    prompted, column = made(folder, ["pear"])
    torch.testing.assert_close(prompted.features(column)[0], want)
    # 12 ids, two of them special, two of the prompt
    assert text_input(f"sentence-transformers:{folder}", make("text"), folder)[1] == 8
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    write(folder / "1_Pooling", config=pooling)
    hidden, column = made(folder, ["pear"])
    assert hidden.body.hidden == 3
    assert (hidden.features(column)[0] - want).abs().max() > 1e-3


def test_other_modules_are_refused_by_their_names(folder):
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write(folder, modules=[modules[0], modules[1] | {"type": "x.y.WordWeights"}])
    with pytest.raises(AmodalError, match="made of Transformer, WordWeights; read are"):
        made(folder)
    write(folder, modules=modules)
    write(folder / "1_Pooling", config={"pooling_mode": "means"})
    with pytest.raises(AmodalError, match="no pooling of sentence-transformers.*'means'.*mean"):
        made(folder)
    write(folder / "1_Pooling", config={"pooling_mode": "mean"})
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(AmodalError, match="cannot read the weights .*2_Dense"):
        made(folder)
    with pytest.raises(AmodalError, match="are for text fields"):
        backbone(f"sentence-transformers:{folder}", make("image"), 8)


def test_a_plain_model_is_pooled_by_its_mean(folder):
    for name in ("modules", "sentence_bert_config"):
        (folder / f"{name}.json").unlink()
    built, column = made(folder, width=24)
    assert built.body.width == 24 and not built.body.unit
    assert not made(folder, width=24, load=False)[0].report
