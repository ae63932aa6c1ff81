// Colours as numbers.

const VIRIDIS = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"].map(rgb);

/** [red, green, blue] of "#rrggbb". */
export function rgb(hex) { return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)); }

/** [red, green, blue] of a share from 0 to 1, from violet to yellow. */
export function viridis(share) {
  const position = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1), i = Math.min(VIRIDIS.length - 2, Math.floor(position));
  return VIRIDIS[i].map((v, c) => v + (VIRIDIS[i + 1][c] - v) * (position - i));
}
