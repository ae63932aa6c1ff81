# %% [markdown]
# # Compare methods on your data
#
# Which method is worth training, and is any better than what needs no training? `amodal.compare` trains candidates a little, the better half
# longer, chooses on the validation part and measures the winner once on the test part; chance, simple features, boosted trees
# and an untrained encoder stand beside them. Here on the bundled handwritten digits, of which two tables of features are read (ink and Fourier
# coefficients), with two candidates, twenty steps, and a budget of two minutes that is not
# used up on a quiet machine.

# %%
import amodal

found = amodal.compare(
    "digits",
    "digit",
    out="compared",
    fields=["pix", "fou"],
    methods=["clip", "scarf"],
    steps=20,
    seeds=1,
    budget="2m",
    progress=False,
)
print(found)

# %% [markdown]
# The sentence on top says what to take, and where the simple thing wins it says so.

# %%
print(found.sentence)

# %%
found.frame()
