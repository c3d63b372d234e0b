// Colours and pictures. A word keeps its colour as long as the page is open.
import type { CodeLevel } from "./segmenter";

type Color = [number, number, number];

// Those of transformers_pat.visualization; further ones go round the colour circle.
const FIRST_COLORS: Color[] = [
  [230, 60, 60], [60, 110, 230], [60, 180, 75], [250, 200, 40], [150, 60, 180], [40, 200, 210],
  [245, 130, 40], [240, 90, 200], [170, 220, 60], [140, 90, 50], [20, 120, 110], [250, 180, 170],
];
const NONE: Color = [110, 110, 110];
const colors = new Map<string, Color>();

export function colorOf(label: string | null): Color {
  if (label === null) return NONE;
  const key = label.toLowerCase();
  if (!colors.has(key)) colors.set(key, FIRST_COLORS[colors.size] ?? hue(colors.size * 137.5, 0.75));
  return colors.get(key)!;
}

/** Draw the photo with the shown labels' masks, and a line where labels meet. */
export function drawOverlay(
  canvas: HTMLCanvasElement,
  photo: ImageData,
  map: Uint16Array,
  labelColors: Color[],
  shown: boolean[],
  opacity: number,
): void {
  const { width, height } = photo;
  const picture = new ImageData(new Uint8ClampedArray(photo.data), width, height);
  for (let i = 0; i < map.length; i++) {
    const label = map[i];
    if (!shown[label]) continue;
    const meets = (i % width < width - 1 && map[i + 1] !== label) || (i + width < map.length && map[i + width] !== label);
    const share = meets ? Math.min(1, opacity * 1.6) : opacity;
    for (let channel = 0; channel < 3; channel++) {
      const color = meets ? labelColors[label][channel] * 0.5 : labelColors[label][channel];
      picture.data[4 * i + channel] += share * (color - picture.data[4 * i + channel]);
    }
  }
  put(canvas, picture);
}

/** Draw a level's codes, one colour each; all cells of the chosen code stand out. */
export function drawCodes(canvas: HTMLCanvasElement, level: CodeLevel, chosen: number | null): void {
  const picture = new ImageData(level.columns, level.rows);
  level.codes.forEach((code, cell) => {
    const color = chosen === null || code === chosen ? hue(code * 137.5, chosen === null ? 0.6 : 0.9) : [70, 70, 70];
    picture.data.set([...color, 255], 4 * cell);
  });
  put(canvas, picture);
}

export function put(canvas: HTMLCanvasElement, picture: ImageData): void {
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d")!.putImageData(picture, 0, 0);
}

/** An RGB colour of a hue in degrees. */
function hue(degrees: number, saturation: number): Color {
  return [0, 8, 4].map((n) => {
    const k = (n + degrees / 30) % 12;
    return Math.round(255 * (0.55 - saturation * 0.45 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  }) as Color;
}
