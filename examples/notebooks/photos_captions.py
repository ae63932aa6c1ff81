# %% [markdown]
# # Photos and captions
#
# A folder of pictures, some with a caption beside them. One encoder is pretrained on both without labels, pictures are
# found by words, and the result stands beside what needs no network. The pictures are drawn here, so that nothing is
# downloaded: a shape in a colour on a noisy ground.

# %%
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import amodal

COLOURS = {"red": (210, 50, 50), "green": (50, 170, 70), "blue": (60, 80, 210)}
SHAPES = ("circle", "square", "triangle")
rng = np.random.default_rng(0)


def picture(colour, shape):
    ground = Image.fromarray(rng.integers(90, 200, (48, 48, 3), dtype=np.uint8))
    x, y, r = *rng.integers(14, 34, 2), rng.integers(8, 13)
    box = [x - r, y - r, x + r, y + r]
    corners = [(x, y - r), (x - r, y + r), (x + r, y + r)]
    draw = ImageDraw.Draw(ground)
    if shape == "triangle":
        draw.polygon(corners, COLOURS[colour])
    else:
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, COLOURS[colour])
    return ground


for number in range(900):
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    folder = Path("photos") / shape
    folder.mkdir(parents=True, exist_ok=True)
    picture(colour, shape).save(folder / f"{number:04}.png")
    if rng.random() < 0.6:  # the others have no caption, and are trained on all the same
        (folder / f"{number:04}.txt").write_text(f"a {colour} {shape}", encoding="utf-8")
print(
    len(list(Path("photos").rglob("*.png"))),
    "pictures,",
    len(list(Path("photos").rglob("*.txt"))),
    "captions",
)

# %% [markdown]
# Files that share a stem are one record, and folders are labels. `amodal.open` says what it makes of them; the label is
# for evaluation alone.

# %%
data = amodal.open("photos")
for name, modality in data.fields.items():
    print(f"{name}: {modality.kind}, in {data.present(name).mean():.0%} of {len(data)} records")

# %%
model = amodal.pretrain("clip", "photos", "run", size="nano", steps=150, batch_size=64, logger=[])

# %% [markdown]
# ## Pictures by words

# %%
model.index("photos")
hits = model.search(text="a blue triangle", k=6, fields=["image"])
sheet = Image.new("RGB", (6 * 100, 96), "white")
for place, hit in enumerate(hits):
    file = next(Path("photos").rglob(f"{Path(hit.key).name}.png"))
    sheet.paste(Image.open(file).resize((96, 96)), (place * 100, 0))
sheet

# %% [markdown]
# ## Beside the simple thing
#
# On records that were not trained on, a linear probe on 10 labels of each shape, and retrieval in both directions; beside
# chance, the same encoder before training, and simple features: tiny pixels and tf-idf. Half of a caption is a colour, which tiny
# pixels show as well, so retrieval is a task for them; a shape is not.

# %%
print(model.evaluate("photos", label="folder", protocols=["linear", "retrieval"], few=10))
