# %% [markdown]
# # Sensors with missing channels
#
# Seven sensors over the oceans, of which every record lacks some: the bundled Earth has, for tiles of 3 degrees, a year of monthly means of sea and
# air temperature, humidity, wind speed, eastward and northward wind and pressure. Each is a field here, and four in ten are taken away at
# random. Nothing is filled in: the encoder reads the sensors that are there, and learns without labels. At the end a probe
# with 20 labels a class names the ocean, beside filling the gaps.

# %%
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import amodal

rng = np.random.default_rng(0)
frame = amodal.open("globe").to_pandas()
frame = frame[frame.climate.notna() & (frame.latitude.abs() < 55)]
names = ("sea", "air", "humidity", "wind", "eastward", "northward", "pressure")
values = np.stack(frame.climate.to_list()).astype(np.float32)  # (N, 12 months, 7)
east = frame.longitude.to_numpy()
ocean = np.where(
    (-70 < east) & (east < 20),
    "Atlantic",
    np.where((20 <= east) & (east < 120), "Indian", "Pacific"),
)

there = rng.random((len(values), 7)) > 0.4
there[np.arange(len(values)), rng.integers(7, size=len(values))] = True  # at least one
rows = [
    {name: values[i, :, [s]].T if there[i, s] else None for s, name in enumerate(names)}
    | {"key": key, "ocean": ocean[i], "part": part}
    for i, (key, part) in enumerate(zip(frame.key, frame.part))
]
print(len(rows), "records,", f"{there.mean():.0%} of the sensors are there")
for name in ("Atlantic", "Indian", "Pacific"):
    print(f"{name:<9} {np.mean(ocean == name):.0%}")

# %% [markdown]
# The test part is whole blocks of 15 degrees, which neither the encoder nor the probe sees.

# %%
sensors = {name: "series" for name in names}
data = amodal.as_dataset(rows, fields=sensors)
seen = amodal.as_dataset([row for row in rows if row["part"] != "test"], fields=sensors)
print({name: f"{data.present(name).mean():.0%}" for name in names})

# %% [markdown]
# ## Pretraining on what is there
#
# A batch holds only the series that exist, so a record with two sensors costs two sevenths, and is not a record of five zeros.

# %%
model = amodal.pretrain("clip", seen, "run", size="nano", steps=100, batch_size=64, logger=[])

# %% [markdown]
# ## Beside the simple thing
#
# The same labels, the same test records, the same probe (logistic regression), for four inputs: the encoder's vector of the sensors that are there; all
# months of all sensors side by side, standardised, with gaps filled by zeros; by the mean of the sensor; and by the mean with flags of what
# is missing.

# %%
part = frame.part.to_numpy()
train, test = np.flatnonzero(part == "train"), np.flatnonzero(part == "test")
gaps = np.where(there[:, None], values, np.nan).reshape(len(values), -1)  # (N, 84)
mean = np.nanmean(gaps[train], 0)
inputs = {
    "amodal, the sensors that are there": model.encode(data),
    "zeros in the gaps": np.nan_to_num(gaps),
    "means in the gaps": np.where(np.isnan(gaps), mean, gaps),
    "means and flags": np.concatenate([np.where(np.isnan(gaps), mean, gaps), there], 1),
}
for name, x in inputs.items():
    scores = []
    for draw in range(5):
        order = np.random.default_rng(draw).permutation(train)
        chosen = np.concatenate([order[ocean[order] == o][:20] for o in np.unique(ocean)])
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(
            x[chosen], ocean[chosen]
        )
        scores.append(balanced_accuracy_score(ocean[test], probe.predict(x[test])))
    print(f"{name:<36} balanced accuracy {np.mean(scores):.3f} ± {np.std(scores):.3f}")
print(f"{'chance':<36} balanced accuracy {1 / 3:.3f}")

# %% [markdown]
# Differences below the spread over draws are noise: where the lines overlap, the simple way is as good after so short a training,
# and a longer one is the next thing to try.
