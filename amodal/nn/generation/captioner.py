"""A recurrent captioner: it reads one vector at the start, then writes a word at a time.

Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306, section 3.2, eq. 13-15: h_t = relu(W_hx x_t + W_hh
h_{t-1} + b_h + [t = 1] W_hi v), y_t = softmax(W_oh h_t + b_o), from START to END.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import Ragged
from amodal.objectives.common import at_least_single
from amodal.objectives.packed import pad_packed


class Captioner(nn.Module):
    """Vectors -> texts.

    Args:
        width_in: Of the vectors.
        alphabet: Ids are 0 … alphabet - 1.
        width: Of the hidden state.
    """

    def __init__(self, width_in: int, alphabet: int, width: int = 512):
        super().__init__()
        self.alphabet = alphabet  # as an input START, as an output END
        self.vector_proj, self.embedding = (
            nn.Linear(width_in, width, bias=False),
            nn.Embedding(alphabet + 1, width),
        )
        self.recurrence, self.classifier = nn.Linear(width, width), nn.Linear(width, alphabet + 1)

    def forward(self, vector_ND: Tensor, texts: Ragged) -> Tensor:
        """The loss of each text.

        Args:
            vector_ND: (N, width_in).
            texts: N lists of ids.

        Returns:
            (N, 2): the sum of -log p of the ids of a text and of its END, and their number.
        """
        ids_NL, is_id_NL = (nn.functional.pad(x, (0, 1)) for x in pad_packed(texts))
        state = self.first_state(vector_ND)
        total = at_least_single(state.sum(1)) * 0
        for t in range(ids_NL.shape[1]):
            state = state.relu()
            wanted = torch.where(is_id_NL[:, t], ids_NL[:, t].long(), self.alphabet)
            logits = at_least_single(self.classifier(state))
            surprise = cross_entropy(logits, wanted, reduction="none")
            # <=: END is predicted too, at t = length
            total = total + torch.where(t <= texts.lengths, surprise, 0.0)
            state = self.embedding(wanted) + self.recurrence(state)
        return torch.stack([total, texts.lengths.to(total.dtype) + 1], 1)

    def first_state(self, vector_ND: Tensor) -> Tensor:
        """(N, width) the hidden state after the vector and START, before relu."""
        # eq. 13 with h_0 = 0: of W_hh h_0 + b_h the bias is left
        start = self.embedding.weight[self.alphabet]
        out: Tensor = start + self.recurrence.bias + self.vector_proj(vector_ND)
        return out

    @torch.no_grad()
    def write(
        self, vector_D: Tensor, *, beams: int = 5, longest: int = 40
    ) -> tuple[list[int], float]:
        """The likeliest text that a beam search finds.

        Args:
            vector_D: (width_in,).
            beams: Texts that go on.
            longest: Ids at most.

        Returns:
            Its ids, and its log probability, with that of END unless the text got too long.
        """
        state = self.first_state(vector_D[None]).relu()
        texts: list[list[int]] = [[]]
        done: list[tuple[float, list[int]]] = []
        scores = torch.zeros(1, device=vector_D.device)
        for _ in range(longest):
            table = scores[:, None] + self.classifier(state).float().log_softmax(1)
            done += [(score, text) for text, score in zip(texts, table[:, self.alphabet].tolist())]
            scores, best = (
                table[:, : self.alphabet].flatten().topk(min(beams, len(texts) * self.alphabet))
            )
            beam, word = best // self.alphabet, best % self.alphabet
            texts = [[*texts[b], w] for b, w in zip(beam.tolist(), word.tolist())]
            if max(score for score, _ in done) >= scores[0]:  # no text gets likelier by growing
                break
            state = (self.embedding(word) + self.recurrence(state[beam])).relu()
        else:
            done += [(score, text) for text, score in zip(texts, scores.tolist())]
        score, text = max(done)
        return text, score
