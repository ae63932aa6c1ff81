# %% [markdown]
# # Adapt with few labels
#
# The bundled Earth: 7,200 tiles with a colour picture and a relief, many with the climate of the sea or names of places. The climate zone
# is known for some tiles on land. An encoder is pretrained on all tiles without it, and then adapted with 20 labels of
# each zone. Here it reads pictures, climate and names.

# %%
import amodal

data = amodal.open("globe")
for name, modality in data.fields.items():
    print(f"{name}: {modality.kind}, in {data.present(name).mean():.0%} of {len(data)} records")

# %%
fields = ["colour", "climate", "places"]
model = amodal.pretrain("clip", "globe", "run", size="nano", steps=60, fields=fields, logger=[])

# %% [markdown]
# ## A head from 20 labels a zone
#
# `"head"` trains a head on the frozen encoder. Without `tuning`, heads on simple features and fine-tuning by LoRA are tried too,
# which takes minutes, and what does best on the validation part is taken.

# %%
adapted = model.adapt("globe", "adapted", label="zone", tuning="head", shots=20, steps=60)
print(adapted.evaluate("globe", label="zone", protocols=["head"], untrained=False))

# %% [markdown]
# ## Beside the simple thing
#
# The same number of labels for a linear probe on what the encoder makes, on tiny pixels, statistics and tf-idf, and on the encoder
# before training.

# %%
print(model.evaluate("globe", label="zone", protocols=["linear"], few=20))

# %% [markdown]
# ## Predictions

# %%
predicted = adapted.predict("globe", part="test").to_pandas()
known = data.to_pandas()[["key", "zone"]].dropna().rename(columns={"zone": "zone in truth"})
predicted.merge(known, on="key")[["key", "zone", "zone in truth"]].sample(5, random_state=0)
