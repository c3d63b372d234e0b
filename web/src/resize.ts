// Photos to pixel values, as image_io_pat.target_size and Pillow's bicubic filter make them.

/** What pat_onnx.json says of photos. */
export interface PhotoFacts {
  size: { shortest_edge?: number; longest_edge?: number; height?: number; width?: number };
  size_divisor: number;
  image_mean: number[];
  image_std: number[];
}

/** Height and width that a photo is resized to. */
export function targetSize(height: number, width: number, { size, size_divisor }: PhotoFacts): [number, number] {
  if (size.height && size.width) return [size.height, size.width];
  const scales = [];
  if (size.shortest_edge) scales.push(size.shortest_edge / Math.min(height, width));
  if (size.longest_edge) scales.push(size.longest_edge / Math.max(height, width));
  const scale = Math.min(...scales);
  const most = size.longest_edge ? Math.max(1, Math.floor(size.longest_edge / size_divisor)) : Infinity;
  const [rows, columns] = [height, width].map((side) =>
    Math.min(most, Math.max(1, Math.floor((side * scale) / size_divisor + 0.5))),
  );
  return [rows * size_divisor, columns * size_divisor];
}

/** The photo at the model's size, normalised: (3, height, width). */
export function toPixelValues(photo: ImageData, facts: PhotoFacts): { data: Float32Array; height: number; width: number } {
  const [height, width] = targetSize(photo.height, photo.width, facts);
  const rgb = resize(photo, height, width);
  const area = height * width;
  const data = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    const [mean, std] = [facts.image_mean[channel], facts.image_std[channel]];
    for (let i = 0; i < area; i++) data[channel * area + i] = (rgb[3 * i + channel] / 255 - mean) / std;
  }
  return { data, height, width };
}

/** 8-bit RGB of the new size; rows after columns, rounded between, as Pillow does. */
function resize(photo: ImageData, height: number, width: number): Uint8ClampedArray {
  const across = weights(photo.width, width);
  const narrow = new Uint8ClampedArray(photo.height * width * 3);
  for (let y = 0; y < photo.height; y++) {
    for (let x = 0; x < width; x++) {
      const { start, values } = across[x];
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        let at = 4 * (y * photo.width + start) + channel;
        for (const value of values) {
          sum += value * photo.data[at];
          at += 4;
        }
        narrow[3 * (y * width + x) + channel] = sum;
      }
    }
  }
  const down = weights(photo.height, height);
  const result = new Uint8ClampedArray(height * width * 3);
  for (let y = 0; y < height; y++) {
    const { start, values } = down[y];
    for (let i = 0; i < width * 3; i++) {
      let sum = 0;
      let at = start * width * 3 + i;
      for (const value of values) {
        sum += value * narrow[at];
        at += width * 3;
      }
      result[y * width * 3 + i] = sum;
    }
  }
  return result;
}

interface Weights {
  start: number;
  values: Float64Array;
}

/** For each new pixel: where its old ones begin, and their shares. The filter widens when a photo shrinks. */
function weights(before: number, after: number): Weights[] {
  const scale = before / after;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  return Array.from({ length: after }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(before, Math.trunc(centre + support + 0.5));
    const values = Float64Array.from({ length: end - start }, (_, i) => bicubic((start + i - centre + 0.5) / stretch));
    const sum = values.reduce((total, value) => total + value, 0);
    return { start, values: values.map((value) => value / sum) };
  });
}

/** Keys' cubic with a = -0.5, which is Pillow's. */
function bicubic(x: number): number {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
