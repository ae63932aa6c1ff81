# %% [markdown]
# # Tables and text
#
# A table of flats with cells that are missing, and an advertisement for some of them. The encoder learns from both without
# labels; then the district is predicted from few labels, and advertisements are found by a row. The data are made here: a
# district decides which words an advertisement likes and, loosely, price, size and age.

# %%
import numpy as np
import pandas as pd

import amodal

rng = np.random.default_rng(0)
WORDS = {
    "harbour": "water boats quay wind brick loft gulls crane".split(),
    "hill": "view garden slope quiet steps vineyard birds oak".split(),
    "centre": "tram shops cafe noise square market arcade lift".split(),
    "station": "trains platform commuters hotel kiosk signal bridge yard".split(),
}
COMMON = "bright flat with kitchen bath near new floor balcony heating rent from may".split()
PRICE = {"harbour": 15, "hill": 17, "centre": 19, "station": 12}
YEAR = {"harbour": 1995, "hill": 1960, "centre": 1910, "station": 1975}


def flat(district):
    size = rng.gamma(9, 8)
    words = [
        *rng.choice(COMMON, 8),
        *rng.choice(WORDS[district], 2),
        *rng.choice(sum(WORDS.values(), []), 1),
    ]
    cells = {
        "size": round(size),
        "price": round(size * rng.normal(PRICE[district], 2.5)),
        "year": round(rng.normal(YEAR[district], 18)),
        "floor": float(rng.integers(0, 12 if district == "centre" else 5)),
    }
    for name in cells:
        if rng.random() < 0.25:
            cells[name] = None
    text = " ".join(rng.permutation(words)) if rng.random() < 0.7 else None
    return {**cells, "advertisement": text, "district": district}


frame = pd.DataFrame([flat(d) for d in rng.choice(list(WORDS), 2000)])
frame.head(4)

# %% [markdown]
# Numbers become one field of the kind `table`, in which a cell may be missing; `fields` says what could be guessed otherwise.
# A column of few different words is a label, which training does not see.

# %%
data = amodal.as_dataset(frame)
for name, modality in data.fields.items():
    print(f"{name}: {modality.kind}, in {data.present(name).mean():.0%} of the records")
print("labels:", *data.labels)

# %%
model = amodal.pretrain("clip", data, "run", size="nano", steps=200, batch_size=128, logger=[])

# %% [markdown]
# ## Advertisements by words, in the common space

# %%
model.index(data)
for hit in model.search(text="boats at the quay", k=3):
    row = frame.iloc[list(data.keys).index(hit.key)]
    print(f"{hit.score:.2f}", row.district, "|", row.advertisement)

# %% [markdown]
# ## Beside the simple thing
#
# 10 labels of each district. Beside it are chance, the untrained encoder, and simple features: standardised numbers with a flag
# for what is missing, and tf-idf. `joined` has both.

# %%
print(model.evaluate(data, label="district", protocols=["linear", "retrieval"], few=10))
