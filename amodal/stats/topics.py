"""Latent Dirichlet allocation: a text is a mixture of topics, a topic a distribution over words.

Blei, Ng and Jordan, JMLR 2003; fitted by variational Bayes as in Hoffman, Blei and Bach, NIPS 2010
(their eq. 2-5, with all texts in each step), which is what scikit-learn's
`LatentDirichletAllocation(learning_method="batch")` does.

Words are hashed, so that the model consists of numbers only and is saved with the weights that
learn from it.

Ours: the topics are buffers of the method that learns from them, saved and loaded with it, and must
be the same on every rank. A test compares the mixtures with scikit-learn's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, name_code

WORD = re.compile(r"[^\W\d_]{2,}")
STOP = frozenset(
    "a about after all also an and any are as at be been before but by can could did do does "
    "for from had has have he her here his how if in into is it its just may me more most my "
    "no nor not of off on one only or other our out over own said same she so some such than "
    "that the their them then there these they this those to too under up us very was we were "
    "what when where which who why will with would you your".split()
)
"""English function words. Those of other languages fall out with words that many texts have."""


@dataclass(frozen=True)
class Counts:
    """Words of texts.

    Args:
        texts: N.
        text: (T,) int64.
        word: (T,) int64, which word is in which text.
        count: (T,) how often.
    """

    texts: int
    text: Tensor
    word: Tensor
    count: Tensor


class Topics(nn.Module):
    """Texts -> (N, K), the mean of the posterior of each one's mixture; rows sum to 1.

    The priors of mixtures and of topics are 1 / K. Before `fit`, topics are random.

    Args:
        topics: K.
        least: Words in fewer texts are left out.
        most: Words in more than this share of the texts are left out.
        buckets: V, what words are hashed into.
        steps: Updates of the topics.
        inner: Updates of each text's mixture in each step.
    """

    weight: Tensor

    def __init__(
        self,
        topics: int,
        *,
        least: int = 20,
        most: float = 0.5,
        buckets: int = 8192,
        steps: int = 20,
        inner: int = 50,
    ):
        super().__init__()
        if topics < 2 or buckets < 2 or least < 1 or not 0 < most <= 1:
            raise AmodalError(
                "topics and buckets must be at least 2, least at least 1 and most in (0, 1], "
                f"not {topics}, {buckets}, {least}, {most}"
            )
        self.least, self.most, self.prior = least, most, 1 / topics
        self.steps, self.inner = steps, inner
        gamma = torch.distributions.Gamma(torch.tensor(100.0), torch.tensor(100.0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same topics for every seed of the method that uses them
            # lambda of Hoffman et al.
            self.register_buffer("weight", gamma.sample(torch.Size((topics, buckets))))
        # the name that saved runs have for `vocabulary`
        self.register_buffer("kept", torch.ones(buckets, dtype=torch.bool))

    @property
    def vocabulary(self) -> Tensor:
        """(V,) bool: the buckets whose words count."""
        return self.get_buffer("kept")

    def count(self, texts: Sequence[str]) -> Counts:
        """The words of the vocabulary in each text."""
        vocabulary, entries = self.vocabulary.cpu(), []
        for i, text in enumerate(texts):
            words = (word for word in WORD.findall(text.lower()) if word not in STOP)
            counts = Counter(name_code(word) % len(vocabulary) for word in words)
            entries += [(i, bucket, times) for bucket, times in sorted(counts.items())]
        table = torch.tensor(entries, dtype=torch.int64).view(-1, 3)
        table = table[vocabulary[table[:, 1]]].to(self.weight.device)
        return Counts(len(texts), table[:, 0], table[:, 1], table[:, 2].to(self.weight.dtype))

    @torch.no_grad()
    def fit(self, texts: Sequence[str]) -> Topics:
        """Choose the vocabulary and estimate the topics.

        Raises:
            AmodalError: If no word is left.
        """
        self.vocabulary.fill_(True)
        counts = self.count(texts)
        having = torch.bincount(counts.word, minlength=len(self.vocabulary))
        self.vocabulary.copy_((having >= self.least) & (having <= self.most * len(texts)))
        if not self.vocabulary.any():
            raise AmodalError(
                f"no word is in at least {self.least} and at most {self.most:.0%} of the "
                f"{len(texts):,} texts; lower `least` or raise `most`"
            )
        counts = self.count(texts)
        for _ in range(self.steps):
            # E-step: each text's mixture, and how much of each word is of each topic (gamma
            # and phi of their eq. 5)
            mixture = self.mixture(counts)
            beta_TK = self.of_words(counts)
            theta_TK = _exp_mean_log(mixture)[counts.text]
            share_TK = theta_TK * beta_TK * (counts.count / (theta_TK * beta_TK).sum(1))[:, None]
            expected = torch.zeros_like(self.weight.T).index_add(0, counts.word, share_TK)
            # M-step (lambda of eq. 5)
            self.weight.copy_((self.prior + expected).T)
        return self

    def of_words(self, counts: Counts) -> Tensor:
        """(T, K): exp E[log of the word's probability in each topic]."""
        total = torch.digamma((self.weight * self.vocabulary).sum(1))
        return (torch.digamma(self.weight[:, counts.word]) - total[:, None]).exp().T

    def mixture(self, counts: Counts) -> Tensor:
        """(N, K): the Dirichlet parameters of each text's mixture (gamma of Hoffman et al.)."""
        beta_TK = self.of_words(counts)
        gamma = self.weight.new_ones(counts.texts, len(self.weight))
        for _ in range(self.inner):
            theta = _exp_mean_log(gamma)
            norm = (theta[counts.text] * beta_TK).sum(1)
            expected = torch.zeros_like(gamma).index_add(
                0, counts.text, beta_TK * (counts.count / norm)[:, None]
            )
            gamma = self.prior + theta * expected
        return gamma

    @torch.no_grad()
    def forward(self, counts: Counts) -> Tensor:
        """(N, K): the mean mixture of each text."""
        gamma = self.mixture(counts)
        return gamma / gamma.sum(1, keepdim=True)


def _exp_mean_log(gamma: Tensor) -> Tensor:
    return (torch.digamma(gamma) - torch.digamma(gamma.sum(1, keepdim=True))).exp()
