"""A tokenizer of pictures, written out one picture after another: VQ-VAE, van den Oord et al. 2017,
arXiv:1711.00937, whose codebook is a moving average (appendix A.1). Weights come from a page by
their names."""

import torch
from torch.nn.functional import pad

from amodal.stats.kmeans import kmeans
from tests.golden import naive
from tests.golden.transformers import gelu
from tests.methods.bench import batch, exact


class Tokenizer:
    """What a reference needs that has one: `books.FIELD` in its weights `w`.

    Attributes:
        rare: A code that is used less often is set anew.
        used: How often codes have been used, as after some steps.
    """

    codes, commitment, decay, rare = 6, 0.25, 0.99, 0.01
    code_width, hidden, used = 32, 64, ()

    def begin(self, field):
        """Check the page's tokenizer, and give it a codebook as after some steps."""
        book = self.page.books[field].quantizer
        assert book.vectors.shape == (self.codes, self.code_width)
        assert self.w[f"books.{field}.encoder.0.weight"].shape[0] == self.hidden
        if self.stage:  # vectors that latents are near to, or all have the same code
            some = exact(batch(("plain",), size=9, seed=7, sources=tuple(self.fields)))[field]
            latents = torch.cat([self.encode(field, x)[0] for x in self.standard(field, some)])
            book.vectors.copy_(latents[:: len(latents) // self.codes][: self.codes])
            self.w[f"books.{field}.quantizer.vectors"] = book.vectors.clone()
            assert len({self.nearest(field, x) for x in latents}) == self.codes
        if self.used:
            book.steps += 70
            book.used.copy_(torch.tensor(self.used))
            book.sums.copy_(book.vectors * book.used[:, None])

    def standard_one(self, field, picture):
        mean, std = (torch.tensor(v).double() for v in self.encoder.fields[field].scale())
        return (picture.double() - mean[:, None, None]) / std[:, None, None]

    def standard(self, field, column):
        return [self.standard_one(field, picture) for picture in column.values]

    def patches(self, field, picture):
        x, side = self.standard_one(field, picture), self.encoder.fields[field].patch
        return [
            x[:, i : i + side, j : j + side].flatten()
            for i in range(0, x.shape[1], side)
            for j in range(0, x.shape[2], side)
        ]

    def tokenizer_losses(self, batch):
        """VQ-VAE, equation 3; its second term is the moving average in place of a gradient."""
        terms = {}
        for f in self.learned:
            pixels = commitment = 0 * self.w[f"books.{f}.encoder.0.bias"].sum()
            pictures, self.latents[f] = self.standard(f, batch[f]), []
            for x in pictures:
                latents, shape = self.encode(f, x)
                self.latents[f] += list(latents.detach())
                vectors = torch.stack([self.vector(f, z) for z in latents])
                passed = latents + (vectors - latents).detach()
                made = self.decode(f, passed.T.reshape(-1, *shape))
                pixels = pixels + ((made - x) ** 2).mean() / len(pictures)
                far = sum(((z - v) ** 2).mean() for z, v in zip(latents, vectors))
                commitment = commitment + far / len(latents) / len(pictures)
            terms[f"pixels/{f}"] = pixels / len(self.learned)
            terms[f"commitment/{f}"] = self.commitment * commitment / len(self.learned)
        return terms

    def nearest(self, field, latent):
        vectors = self.w[f"books.{field}.quantizer.vectors"]
        return int(((vectors - latent.detach()) ** 2).sum(1).argmin())

    def vector(self, field, latent):
        return self.w[f"books.{field}.quantizer.vectors"][self.nearest(field, latent)]

    def factors(self, field):
        side, found = self.encoder.fields[field].patch, []
        for p in range(2, side + 1):
            while side % p == 0:
                found.append(p)
                side //= p
        return found

    def encode(self, field, x):
        """(C, H, W) -> vectors of its squares, row by row, and how many there are each way."""
        name, i = f"books.{field}.encoder", 0
        x = self.convolve(f"{name}.{i}", x)
        for p in self.factors(field):
            x = self.shrink(f"{name}.{i + 2}", self.residual(f"{name}.{i + 1}", x), p)
            i += 2
        x = self.residual(f"{name}.{i + 2}", self.residual(f"{name}.{i + 1}", x))
        x = self.convolve(f"{name}.{i + 3}", x)
        assert f"{name}.{i + 4}.weight" not in self.w
        return x.flatten(1).T, x.shape[1:]

    def decode(self, field, x):
        name, i = f"books.{field}.decoder", 2
        x = self.convolve(f"{name}.0", x)
        x = self.residual(f"{name}.2", self.residual(f"{name}.1", x))
        for p in reversed(self.factors(field)):
            x = self.residual(f"{name}.{i + 2}", self.grow(f"{name}.{i + 1}", x, p))
            i += 2
        return self.convolve(f"{name}.{i + 1}", x)

    def residual(self, name, x):
        y = gelu(self.channel_norm(f"{name}.layers.0", x))
        y = self.convolve(f"{name}.layers.2", y)
        return x + self.convolve(f"{name}.layers.4", gelu(y))

    def channel_norm(self, name, x):
        """All channels and pixels of a picture are one group."""
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        return x * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def convolve(self, name, x):
        """Zeros are beyond the border."""
        weight, (_, h, w) = self.w[f"{name}.weight"], x.shape
        side = weight.shape[-1]
        x = pad(x, (side // 2,) * 4)
        made = self.w[f"{name}.bias"][:, None, None].expand(-1, h, w)
        for i in range(side):
            for j in range(side):
                made = made + self.mix(weight[:, :, i, j], x[:, i : i + h, j : j + w])
        return made

    def mix(self, weight, x):
        return (weight @ x.flatten(1)).unflatten(1, x.shape[1:])

    def shrink(self, name, x, p):
        made = self.w[f"{name}.bias"][:, None, None]
        for i in range(p):
            for j in range(p):
                made = made + self.mix(self.w[f"{name}.weight"][:, :, i, j], x[:, i::p, j::p])
        return made

    def grow(self, name, x, p):
        """Each vector becomes p by p of them, which do not overlap."""
        weight = self.w[f"{name}.weight"]
        assert weight.shape[-1] == p
        rows = []
        for i in range(p):
            columns = [self.mix(weight[:, :, i, j].T, x) for j in range(p)]
            rows.append(torch.stack(columns, 3).flatten(2))
        return torch.stack(rows, 2).flatten(1, 2) + self.w[f"{name}.bias"][:, None, None]

    def after_step(self, step, steps):
        if self.stage:
            return
        for f in self.learned:
            if self.latents[f]:
                self.follow(f"books.{f}.quantizer", f, self.latents[f])

    def order(self, number, count):
        def signed(i):
            bits = naive.bits(number, i)
            return bits - naive.WORD if bits >= naive.WORD // 2 else bits

        return sorted(range(count), key=signed)

    def follow(self, name, field, latents):
        """VQ-VAE, appendix A.1, with a start by k-means, and codes without use set anew."""
        k, steps = self.codes, int(self.w[f"{name}.steps"])
        if steps == 0:
            chosen = torch.stack([latents[i] for i in self.order(0, len(latents))])
            centres = kmeans(chosen, min(k, len(chosen)), steps=10, tries=1)[1]
            self.w[f"{name}.vectors"] = torch.stack([centres[i % len(centres)] for i in range(k)])
            used = [0.0] * k
            for x in latents:
                used[self.nearest(field, x)] += 1.0
            used = torch.tensor([max(u, 1e-5) for u in used]).double()
            sums = self.w[f"{name}.vectors"] * used[:, None]
        else:
            used, sums = self.decay * self.w[f"{name}.used"], self.decay * self.w[f"{name}.sums"]
            for x in latents:
                code = self.nearest(field, x)
                used[code] += 1 - self.decay
                sums[code] += (1 - self.decay) * x
            total = used.sum()
            smooth = (used + 1e-5) / (total + k * 1e-5) * total
            self.w[f"{name}.vectors"] = sums / smooth[:, None]
        order, vectors = self.order(steps + 1, len(latents)), self.w[f"{name}.vectors"].clone()
        dead = [c for c in range(k) if used[c] < self.rare]
        for n, c in enumerate(dead):
            vectors[c] = latents[order[n % len(order)]]
            used[c], sums[c] = self.rare, self.rare * vectors[c]
        self.w |= {f"{name}.used": used, f"{name}.sums": sums, f"{name}.vectors": vectors}
        self.w[f"{name}.steps"] = self.w[f"{name}.steps"] + 1
