"""CS-PaperSum (row 35): likeness and shared keywords of a text and its summary detect summaries that
are another text's, and topics that grow are found. Real texts: entries of FOLDOC, a dictionary of
computing, of eight sentences or more, 64 of them drawn for each seed, and summaries of four of
their sentences by TextRank, since no language model is at hand; cosines of MiniLM, keywords by
counts and rarity. Shuffled pairs from all entries and from those of the same category. Corruption:
a share of the four sentences is replaced by sentences of other entries' summaries. Trends: the
entries' own categories as they are, of 60 entries or more; years GENERATED, six of them, each drawn
evenly, so that nothing grows; in corpora with growth, entries of four categories drawn at random
take theirs with weights that rise from .25 to 1.75, and what that does to the slope of every
category, those that share entries with them included, follows from the weights."""

import numpy as np

from amodal.curate.shared.sentences import lead, random_rank, sentences, textrank, top_sentences
from amodal.diagnose.trends import trends
from amodal.evaluate.summaries import TfIdf, compare_likeness, derangement, jaccard, keywords
from amodal.stats.auroc import auroc
from amodal.train.packaged import sentence_encoder
from amodal_claims import Comparison

CLAIM = (
    "Cosines and keyword overlap of texts with their own summaries exceed those of shuffled pairs with an AUROC above .95, cosines also "
    "among texts of one category; both fall with every further quarter of the sentences that is swapped for others'; TextRank's sentences "
    "are more alike to the text than random or first ones; of categories with planted growth more than .8 are found at a false discovery "
    "rate of .05, slopes come out as planted (within a tenth), and where nothing grows 5 % of the corpora raise an alarm (within 5 points)."
)
DATA = "foldoc"
SEEDS = 5
RECORDS, LONG, COUNT, WORDS = 64, 8, 4, 10
SHARES = (0, 25, 50, 75, 100)
YEARS, GROWTH, PLANTED, LEAST, ALARM = 6, 0.75, 4, 60, 0.05
CORPORA, DRAWS = {"none": 60, "grown": 12}, 1000
OWN, STEP = (
    "AUROC of own against shuffled pairs, against .95",
    "least of four steps down, mean of 64",
)
COSINE = "mean cosine of a summary with its text, MiniLM"
COMPARISONS = (
    Comparison("cosine: own against shuffled", OWN, "cosine: auroc", 0.95),
    Comparison("keywords: own against shuffled", OWN, "keywords: auroc", 0.95),
    Comparison(
        "cosine: own against another of the same category", OWN, "cosine: auroc, category", 0.95
    ),
    Comparison("cosine: falls with corruption", STEP, "cosine: least step", 0.0),
    Comparison("keywords: fall with corruption", STEP, "keywords: least step", 0.0),
    Comparison("TextRank against random sentences", COSINE, "cosine: textrank", "cosine: random"),
    Comparison("TextRank against the first sentences", COSINE, "cosine: textrank", "cosine: lead"),
    Comparison(
        "planted growth is found", "share of grown categories, against .8", "trends: found", 0.8
    ),
    Comparison(
        "slopes as planted",
        "slope of estimated on true slopes, against 1",
        "trends: slope",
        1.0,
        within=0.1,
    ),
    Comparison(
        "alarms where nothing grows",
        "share of corpora, against .05",
        "trends: alarms",
        ALARM,
        within=0.05,
    ),
)


def drawn(dataset, seed):
    """(texts, categories, sentences of each) of the records of a seed."""
    said = [sentences(dataset.raw(i, "text")) for i in range(len(dataset))]
    long = np.flatnonzero([len(s) >= LONG for s in said])
    rows = np.sort(np.random.default_rng([seed, 35]).permutation(long)[:RECORDS])
    return (
        [dataset.raw(i, "text") for i in rows],
        dataset.label("category")[rows],
        [said[i] for i in rows],
    )


def corrupted(chosen, share, seed):
    """The summaries with `share` percent of their sentences replaced by other entries'; more of the
    same ones at a larger share."""
    rng = np.random.default_rng([seed, 36])
    found = []
    for i, own in enumerate(chosen):
        order = rng.permutation(len(own))
        strange = (i + rng.integers(1, len(chosen), size=len(own))) % len(chosen)
        which = rng.integers(COUNT, size=len(own))
        replaced = set(order[: round(share / 100 * len(own))].tolist())
        found.append(
            [chosen[strange[k]][which[k]] if k in replaced else s for k, s in enumerate(own)]
        )
    return [" ".join(s) for s in found]


def within(categories, seed):
    """For each record another one of its category, -1 where it is the only one."""
    other = np.full(len(categories), -1)
    for name in set(categories):
        rows = np.flatnonzero(categories == name)
        if len(rows) > 1:
            other[rows] = rows[derangement(len(rows), seed)]
    return other


def measure(seed, dataset):
    texts, categories, said = drawn(dataset, seed)
    embed = sentence_encoder()
    chosen = [top_sentences(s, textrank, COUNT) for s in said]
    known, words = embed(texts), keywords(texts, WORDS)
    other, near = derangement(len(texts), seed), within(categories, seed)
    found, level = {}, {"cosine": [], "keywords": []}
    for share in SHARES:
        short = corrupted(chosen, share, seed)
        vectors, extracted = embed(short), keywords(short, WORDS)
        likeness = {
            "cosine": (known * vectors).sum(1),
            "keywords": np.array([jaccard(a, b) for a, b in zip(words, extracted)]),
        }
        for name, values in likeness.items():
            level[name].append(float(values.mean()))
            found[f"{name}: {share} %"] = level[name][-1]
        if share == 0:
            clean, shuffled = likeness, {"cosine": (known * vectors[other]).sum(1)}
            shuffled["keywords"] = np.array(
                [jaccard(a, extracted[j]) for a, j in zip(words, other)]
            )
            alone = near >= 0
            same = compare_likeness(
                clean["cosine"][alone], (known * vectors[near]).sum(1)[alone], seed=seed
            )
            found["cosine: auroc, category"] = same.auroc
            bags = TfIdf([*texts, *short])
            a, b = bags(texts), bags(short)
            found["tf-idf: auroc"] = compare_likeness(
                (a * b).sum(1), (a * b[other]).sum(1), seed=seed
            ).auroc
        elif (
            share < 100
        ):  # not claimed: how well one score separates a spoilt summary from a sound one
            for name, values in likeness.items():
                both = np.concatenate([clean[name], values])
                found[f"{name}: detects {share} %"] = auroc(
                    both, np.repeat([True, False], len(values))
                )
    for name, steps in level.items():
        found[f"{name}: auroc"] = compare_likeness(clean[name], shuffled[name], seed=seed).auroc
        found[f"{name}: least step"] = float(-np.diff(steps).max())
    found["cosine: textrank"] = found["cosine: 0 %"]
    for name, rank in (("lead", lead), ("random", random_rank(seed))):
        vectors = embed([" ".join(top_sentences(s, rank, COUNT)) for s in said])
        found[f"cosine: {name}"] = float((known * vectors).sum(1).mean())
    return found | over_years(dataset, seed)


def over_years(dataset, seed):
    first, others_ = dataset.label("category"), dataset.label("also")
    of = [{a, *(b.split(", ") if b else ())} for a, b in zip(first, others_)]
    names = sorted({n for each in of for n in each if sum(n in o for o in of) >= LEAST})
    topics = {n: np.array([n in o for o in of]) for n in names}
    rng, years = np.random.default_rng([seed, 37]), np.arange(YEARS)
    alarms = {"q": [], "p": []}
    for _ in range(CORPORA["none"]):
        course = trends(
            rng.integers(YEARS, size=len(of)), topics, draws=DRAWS, seed=int(rng.integers(2**31))
        )
        for which, list_ in alarms.items():
            list_.append(any(getattr(one, which) < ALARM for one in course.values()))
    hits, true, estimated = [], [], []
    for _ in range(CORPORA["grown"]):
        grown = rng.choice(names, PLANTED, replace=False).tolist()
        growing = np.logical_or.reduce([topics[n] for n in grown])
        law = np.where(growing[:, None], np.linspace(1 - GROWTH, 1 + GROWTH, YEARS), 1.0) / YEARS
        when = (rng.random((len(of), 1)) > law.cumsum(1)).sum(1).clip(max=YEARS - 1)
        course = trends(when, topics, draws=DRAWS, seed=int(rng.integers(2**31)))
        hits += [course[n].q < ALARM and course[n].slope > 0 for n in grown]
        expected = law @ years
        spread = (law @ years**2).sum() - len(of) * expected.mean() ** 2
        true += [float((topics[n] * (expected - expected.mean())).sum() / spread) for n in names]
        estimated += [course[n].slope for n in names]
    return {
        "trends: found": float(np.mean(hits)),
        "trends: slope": float(np.polyfit(true, estimated, 1)[0]),
        "trends: alarms": float(np.mean(alarms["q"])),
        "trends: alarms, uncorrected": float(np.mean(alarms["p"])),
        "trends: categories": float(len(names)),
    }
