"""Maps on the pictures that they are of: label maps, overlays, and one sheet of all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from amodal.evaluate.contact_sheet import Card, sheet
from amodal.maps.folder import Folder, palette
from amodal.maps.items import Items
from amodal.maps.laying import components, in_colours, label_map, on_picture, overlay, shares
from amodal.maps.modes import COLOURS, Mode
from amodal.maps.truth import Truth
from amodal.maps.values import Range
from amodal.modalities import Modality
from amodal.modalities.shared.frames import Frame, whole_picture
from amodal.modalities.shared.rasters import UNKNOWN
from amodal.progress import Bar

MAX_SIDE = 1024
"""Pixels of the longer side; larger pictures are drawn smaller."""
SHEET_ROWS = 8
SHEET_LAYERS = 4
"""Layers that a sheet shows one by one."""


@dataclass(frozen=True)
class MapPictures:
    """Pictures of one set of maps.

    Args:
        folder: Where values are, and pictures are written to.
        items: What is mapped.
        mode: Made the values.
        reach: How far they go.
        readable: Items that have values.
        name: Of the folder of the values.
    """

    folder: Folder
    items: Items
    mode: Mode
    reach: Range
    readable: list[int]
    name: str = "values"
    _last: dict[int, list[tuple[np.ndarray, Frame]]] = field(default_factory=dict, repr=False)

    @property
    def modality(self) -> Modality:
        """Of the pictures."""
        return next(iter(self.items.views[0].dataset.fields.values()))

    def pixels(self, item: int) -> list[np.ndarray]:
        """The pictures of an item as they came, each (C, H, W)."""
        return [picture for picture, _ in self._wholes(item)]

    def _wholes(self, item: int) -> list[tuple[np.ndarray, Frame]]:
        if item not in self._last:
            self._last.clear()
            wholes = []
            for view in self.items.views:
                raw = view.dataset.raw(int(view.rows[item]), next(iter(view.dataset.fields)))
                assert raw is not None
                wholes.append(whole_picture(self.modality, raw, MAX_SIDE))
            self._last[item] = wholes
        return self._last[item]

    def layers(self, item: int) -> np.ndarray:
        """(K, H, W) the layers of an item on its picture."""
        return self._laid(item)[: len(self.mode.layers)]

    def _laid(self, item: int) -> np.ndarray:
        values = self.folder.array(f"{self.name}/{self.items.names[item]}.npy")
        picture, frame = self._wholes(item)[0]
        return on_picture(values, frame, *picture.shape[1:])

    def label(self, item: int) -> np.ndarray:
        """(H, W) uint8 the label map of an item, which is written unless it exists."""
        name = f"labels/{self.items.names[item]}.png"
        if self.folder.has(name):
            return self.folder.labels(name)
        made = label_map(self.layers(item), self.reach.threshold)
        self.folder.write_labels(name, made)
        return made

    def all_shares(self, *, progress: bool) -> np.ndarray:
        """(items, K) the share of each layer, of readable items in order; writes label maps."""
        count = max(len(self.mode.layers), 2)
        made = []
        with Bar("label maps", len(self.readable), shown=progress) as bar:
            for item in self.readable:
                made.append(shares(self.label(item), count))
                bar.step("records")
        return np.stack(made)[:, -len(self.mode.layers) :]

    def draw(
        self,
        order: list[int],
        colours: Mapping[int, int],
        truth: Truth | None,
        title: str,
        *,
        progress: bool,
    ) -> None:
        """Write pictures of items, and a sheet of the first ones.

        Args:
            order: The items.
            colours: Class number -> the label that has its colour; others have that of the number.
            truth: Rasters of labels, which the sheet shows too.
            title: Of the sheet.
            progress: Show a bar.
        """
        lines = []
        with Bar("pictures", len(order), shown=progress) as bar:
            for place, item in enumerate(order):
                named = self._pictures(item)
                for name, picture in named.items():
                    if not self.folder.has(name):
                        self.folder.write_picture(name, picture)
                if place < SHEET_ROWS:
                    lines.append(self._line(item, named, truth, colours))
                bar.step("records")
        if lines:
            draft = self.folder.path / ".sheet.png"  # the drawing goes by its ending
            sheet(lines, draft, title=title)
            draft.replace(self.folder.path / "sheet.png")

    def _pictures(self, item: int) -> dict[str, np.ndarray]:
        """File -> (H, W, 3)."""
        stem, shown = self.items.names[item], self._shown(item)
        laid, mode = self._laid(item), self.mode
        base, clear = shown[-1], 0 if len(mode.layers) == 1 else None
        made = {f"overlays/{stem}.png": overlay(base, self.label(item), clear=clear)}
        if mode.colours:
            low, high = self.reach.low[-COLOURS:], self.reach.high[-COLOURS:]
            made[f"components/{stem}.png"] = components(laid[-COLOURS:], low, high)
        else:
            for k in range(len(mode.layers)):
                dark, bright = float(self.reach.low[k]), float(self.reach.high[k])
                file = f"{mode.folder}/{stem}" + (f".{k}" if len(mode.layers) > 1 else "")
                made[f"{file}.png"] = in_colours(base, laid[k], dark, bright)
        return made

    def _shown(self, item: int) -> list[np.ndarray]:
        """The pictures of an item for people, (H, W, 3)."""
        return [self.modality.show(picture) for picture in self.pixels(item)]

    def _line(
        self,
        item: int,
        named: dict[str, np.ndarray],
        truth: Truth | None,
        colours: Mapping[int, int],
    ) -> list[Card]:
        titles = ["before", "after"] if len(self.items.views) > 1 else [self.items.keys[item]]
        if len(titles) > 1:
            titles[0] = f"{self.items.keys[item]}: before"
        cards = [Card(p, t) for p, t in zip(self._shown(item), titles)]
        pictures = list(named.values())
        cards.append(Card(pictures[0], self.mode.kind, self._legend(item)))
        rest = ["components"] if self.mode.colours else list(self.mode.layers)
        rest = ["distance"] if self.mode.kind == "change" else rest
        cards += [Card(p, t) for p, t in zip(pictures[1 : 1 + SHEET_LAYERS], rest)]
        if truth is not None:
            raster = truth.raster(item, *pictures[0].shape[:2])
            if raster is not None:
                table = np.arange(UNKNOWN + 1)
                table[[*colours]] = [*colours.values()]
                cards.append(Card(palette()[table[raster]], truth.name))  # -1 is the last: unknown
        return cards

    def _legend(self, item: int) -> str:
        """The layers with the largest shares."""
        count = max(len(self.mode.layers), 2)
        share = shares(self.label(item), count)[-len(self.mode.layers) :]
        order = np.argsort(-share)[:2]
        return ", ".join(f"{self.mode.layers[k]} {share[k]:.0%}" for k in order)
