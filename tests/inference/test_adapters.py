"""A model where mteb, sentence-transformers and LangChain expect one of theirs."""

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


def test_a_module_of_sentence_transformers(model):
    package = pytest.importorskip("sentence_transformers")
    wrapped = package.SentenceTransformer(modules=[SentenceModule(model)], device="cpu")
    texts = [" ".join(WORDS[i : i + 4]) for i in range(5)]
    assert np.array_equal(wrapped.encode(texts), model.encode(texts))
    assert wrapped.similarity(wrapped.encode(texts), wrapped.encode(texts)).shape == (5, 5)
    prompted = wrapped.encode(texts, prompt="big ")
    assert np.array_equal(prompted, model.encode([f"big {t}" for t in texts]))
    assert SentenceModule(model).get_sentence_embedding_dimension() == prompted.shape[1]


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
