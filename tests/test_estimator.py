"""The estimator behaves as scikit-learn expects, and learns without labels."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from amodal import Embedder
from amodal.core import AmodalError

QUICK = dict(size="nano", steps=4, batch=16, device="cpu")


def toys(n: int = 60, seed: int = 0):
    """Pictures and captions of two kinds; one in three has no caption."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    photos = (
        (rng.normal(90, 20, (n, 16, 16, 3)) + 90 * y[:, None, None, None])
        .clip(0, 255)
        .astype(np.uint8)
    )
    return {
        "photo": list(photos),
        "caption": [
            f"a {['dark', 'bright'][k]} one, number {i}" if i % 3 else None for i, k in enumerate(y)
        ],
    }, y


@pytest.fixture(scope="module")
def fitted():
    return Embedder(**QUICK).fit(toys()[0])


def test_one_vector_for_each_record(fitted):
    X, _ = toys(20, seed=1)
    vectors = fitted.transform(X)
    assert (
        vectors.shape == (20, fitted.n_features_out_)
        and vectors.dtype == np.float32
        and np.isfinite(vectors).all()
    )
    assert len(fitted.get_feature_names_out()) == vectors.shape[1]
    np.testing.assert_allclose(
        fitted.transform({"photo": X["photo"]})[0], vectors[0], atol=1e-5
    )  # record 0 has no caption
    one = fitted.transform([{"caption": "a dark one"}])
    assert one.shape == (1, vectors.shape[1]), "one field of one record is enough"


def test_records_and_columns_are_the_same_data(fitted):
    X, _ = toys(9)
    rows = [{k: v[i] for k, v in X.items() if v[i] is not None} for i in range(9)]
    np.testing.assert_array_equal(fitted.transform(rows), fitted.transform(X))


def test_the_seed_decides(fitted):
    X, _ = toys()
    repeated = Embedder(**QUICK).fit_transform(X)
    np.testing.assert_array_equal(repeated, fitted.transform(X))
    assert not np.array_equal(repeated, Embedder(**QUICK, random_state=1).fit_transform(X))


def test_it_works_in_a_pipeline_with_a_classifier_and_in_a_search():
    X, y = toys()
    photos = np.stack(X["photo"])
    pipeline = make_pipeline(Embedder("simclr", **QUICK), LogisticRegression(max_iter=1000))
    assert (
        pipeline.fit({"photo": photos}, y).score(
            {"photo": toys(20, seed=2)[0]["photo"]}, np.arange(20) % 2
        )
        > 0.9
    )
    grid = GridSearchCV(pipeline, {"embedder__steps": [1, 2]}, cv=2, error_score="raise")
    assert grid.fit(photos, y).best_score_ > 0.9, "an array can be cut into folds"
    repr(pipeline), pipeline._repr_html_()


def test_parameters_as_scikit_learn_wants_them():
    own = Embedder("dino", size="nano", options={"prototypes": 64}, random_state=3)
    copy = clone(own)
    assert (
        copy is not own
        and copy.get_params() == own.get_params()
        and not copy.__sklearn_is_fitted__()
    )
    assert copy.set_params(steps=7) is copy and copy.steps == 7 and own.steps is None
    assert (
        repr(own)
        == "Embedder(method='dino', size='nano', options={'prototypes': 64}, random_state=3)"
    )
    with pytest.raises(AmodalError, match="Did you mean steps"):
        own.set_params(step=3)


def test_a_fitted_one_can_be_pickled(fitted):
    X, _ = toys(5)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(fitted)).transform(X), fitted.transform(X)
    )


def test_one_that_was_saved_embeds_as_before(fitted, tmp_path):
    X, _ = toys(12, seed=2)
    loaded = Embedder.load(fitted.save(tmp_path / "saved"), device="cpu")
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    assert loaded.method == fitted.method and loaded.n_features_out_ == fitted.n_features_out_
    assert loaded.transform([{"caption": "a dark one"}]).shape == (1, loaded.n_features_out_)
    with pytest.raises(AmodalError, match="has not been fitted"):
        Embedder().save(tmp_path / "none")
    with pytest.raises(AmodalError, match="no"):
        Embedder.load(tmp_path / "none")


def test_the_run_is_saved_where_it_is_asked_for(tmp_path, folder):
    import amodal

    own = Embedder(**QUICK, out=tmp_path / "run").fit(folder)
    assert amodal.load(tmp_path / "run").config["data"]["train"] == 80, (
        "fit learns from every record"
    )
    assert own.transform(folder).shape == (80, own.n_features_out_)


class Frame(dict):
    """As much of a data frame as is used: columns by name."""

    columns = property(list)

    def to_dict(self):
        return dict(self)


def test_a_data_frame_of_numbers_is_one_table():
    rng = np.random.default_rng(0)
    frame = Frame({name: rng.normal(size=50) for name in ("height", "weight", "age")})
    own = Embedder("simclr", **QUICK).fit(frame)
    assert list(own.model_.fields) == ["table"]
    first = Frame({name: values[:3] for name, values in frame.items()})
    np.testing.assert_allclose(own.transform(first), own.transform(frame)[:3], atol=1e-5)
    assert np.isfinite(own.transform(Frame(height=frame["height"][:3]))).all(), (
        "columns may be missing"
    )


def test_what_cannot_be_read_is_nan_and_counted(fitted):
    with pytest.warns(UserWarning, match="1 of 2 records have no readable value"):
        vectors = fitted.transform({"caption": ["a dark one", None]})
    assert np.isnan(vectors[1]).all() and np.isfinite(vectors[0]).all()


def test_mistakes_are_reported(fitted):
    with pytest.raises(AmodalError, match="call fit first"):
        Embedder().transform({"photo": []})
    with pytest.raises(AmodalError, match="none of the fields.*photo, caption"):
        fitted.transform({"picture": toys(4)[0]["photo"]})
    with pytest.raises(AmodalError, match="a list of int"):
        fitted.transform([1, 2])
    with pytest.raises(AmodalError, match="Did you mean clip"):
        Embedder("clib", **QUICK).fit(toys()[0])
