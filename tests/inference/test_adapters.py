"""A model where mteb, sentence-transformers and LangChain expect one of theirs."""

import asyncio

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError
from amodal.inference.adapters import MtebEncoder, SentenceModule

WORDS = "cat dog apple pear house tree red green blue big small".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    generator = np.random.default_rng(0)
    columns = {
        "photo": [generator.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(32)],
        "caption": [" ".join(generator.choice(WORDS, 5)) for _ in range(32)],
    }
    folder = tmp_path_factory.mktemp("run")
    return amodal.pretrain("clip", columns, folder / "run", size="nano", steps=2, batch_size=8)


def test_langchain_stores_find_texts_by_it(model):
    store = pytest.importorskip("langchain_core.vectorstores").InMemoryVectorStore(embedding=model)
    texts = [" ".join(WORDS[i : i + 4]) for i in range(8)]
    store.add_texts(texts)
    assert store.similarity_search(texts[5], k=1)[0].page_content == texts[5]
    assert model.embed_documents([]) == []
    assert model.embed_documents(texts[:2])[1] == pytest.approx(
        model.embed_query(texts[1]), abs=1e-6
    )


def test_asynchronous_retrievers_of_langchain_find_texts_by_it(model):
    store = pytest.importorskip("langchain_core.vectorstores").InMemoryVectorStore(embedding=model)
    texts = [" ".join(WORDS[i : i + 4]) for i in range(8)]

    async def found():
        await store.aadd_texts(texts)
        return await store.asimilarity_search(texts[5], k=1)

    assert asyncio.run(found())[0].page_content == texts[5]
    assert asyncio.run(model.aembed_documents(texts[:2])) == model.embed_documents(texts[:2])
    assert asyncio.run(model.aembed_query(texts[1])) == model.embed_query(texts[1])


def test_a_module_of_sentence_transformers(model):
    package = pytest.importorskip("sentence_transformers")
    wrapped = package.SentenceTransformer(modules=[SentenceModule(model)], device="cpu")
    texts = [" ".join(WORDS[i : i + 4]) for i in range(5)]
    assert np.array_equal(wrapped.encode(texts), model.encode(texts))
    assert wrapped.similarity(wrapped.encode(texts), wrapped.encode(texts)).shape == (5, 5)
    prompted = wrapped.encode(texts, prompt="big ")
    assert np.array_equal(prompted, model.encode([f"big {t}" for t in texts]))
    assert SentenceModule(model).get_sentence_embedding_dimension() == prompted.shape[1]


def test_a_model_of_sentence_transformers_is_saved_and_loaded(model, tmp_path):
    package = pytest.importorskip("sentence_transformers")
    wrapped = package.SentenceTransformer(modules=[SentenceModule(model, "caption")], device="cpu")
    wrapped.save(str(tmp_path / "d"), create_model_card=False)
    loaded = package.SentenceTransformer(str(tmp_path / "d"), device="cpu", trust_remote_code=True)
    assert loaded[0].field == "caption"
    np.testing.assert_allclose(loaded.encode(WORDS), model.encode(WORDS), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: MtebEncoder(m, "photos"), "ORG/NAME .*such as 'someone/photos', not 'photos'"),
        (lambda m: MtebEncoder(m, "a/b/c"), "ORG/NAME .* not 'a/b/c'"),
        (lambda m: MtebEncoder(m, None), "ORG/NAME .* not None"),
        (lambda m: MtebEncoder("x", "a/b"), "MtebEncoder takes a model, as amodal.load .* not 'x'"),
        (lambda m: SentenceModule("x"), "SentenceModule takes a model, .* not 'x'"),
    ],
)
def test_what_is_no_model_or_no_name_is_said_at_once(model, make, message):
    with pytest.raises(AmodalError, match=message):
        make(model)


def test_a_task_of_mteb_from_local_data(model, tmp_path):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    class Fruit(AbsTaskClassification):
        """Whether a text begins with a fruit."""

        metadata = TaskMetadata(
            name="Fruit",
            description="Whether a text begins with a fruit.",
            dataset={"path": "local/fruit", "revision": "1"},
            type="Classification",
            category="t2c",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
        )
        n_experiments = 2
        samples_per_label = 4

        def load_data(self, **options):
            generator = np.random.default_rng(1)
            parts = {}
            for part, count in (("train", 24), ("test", 12)):
                first = ["apple" if i % 2 else "house" for i in range(count)]
                texts = [" ".join([f, *generator.choice(WORDS, 3)]) for f in first]
                parts[part] = Dataset.from_dict(
                    {"text": texts, "label": [i % 2 for i in range(count)]}
                )
            self.dataset, self.data_loaded = DatasetDict(parts), True

    results = mteb.evaluate(
        MtebEncoder(model, "someone/toys"),
        [Fruit()],
        cache=None,
        show_progress_bar=False,
        co2_tracker=False,
    )
    [scores] = results[0].scores["test"]
    assert 0 <= scores["accuracy"] <= 1 and results.model_name == "someone/toys"


def test_pairs_of_kinds_and_what_a_model_does_not_read(model):
    encoder = MtebEncoder(model)
    assert encoder.fields == {"text": "caption", "image": "photo"}
    photos = [np.full((16, 16, 3), 10 * i, np.uint8) for i in range(4)]
    texts = [" ".join(WORDS[i : i + 4]) for i in range(4)]
    batches = [{"text": texts[:2], "image": photos[:2]}, {"text": texts[2:], "image": photos[2:]}]
    both = encoder.encode(batches)
    assert np.allclose(both, model.encode({"caption": texts, "photo": photos}), atol=1e-6)
    alone = encoder.encode([{"image": photos}])
    assert np.array_equal(alone, model.encode(photos, field="photo"))
    similarity = encoder.similarity(both, alone)
    assert torch.allclose(
        similarity.diagonal(), encoder.similarity_pairwise(both, alone), atol=1e-6
    )
    with pytest.raises(AmodalError, match="the task has audio, and the model reads image, text"):
        encoder.encode([{"audio": [1]}])
    with pytest.raises(AmodalError, match="no field 'words' for text; it has photo, caption"):
        MtebEncoder(model, fields={"text": "words"})
