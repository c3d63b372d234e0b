// What transformers_pat.onnx does in Python: photos and words to label maps, codes to pictures.
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web/wasm";

import { type PhotoFacts, toPixelValues } from "./resize";

interface Facts extends PhotoFacts {
  prompt_templates: string[];
  pad_token_id: number;
  max_prompt_tokens: number;
  codebook_sizes: number[];
  background_embed: number[];
  format_version: number;
}

/** What the model has read of a photo: enough to segment it by any words. */
export interface Features {
  dense: ort.Tensor;
  codes: ort.Tensor[];
}

export interface CodeLevel {
  rows: number;
  columns: number;
  codes: Int32Array;
  codebookSize: number;
}

const GRAPHS = ["image", "segment", "text", "codes"] as const;
type Graph = (typeof GRAPHS)[number];
const FORMAT_VERSION = 2;

/** A mistake of the person at the page: its message is shown as it is. */
export class UserError extends Error {}

export class Segmenter {
  private embeds = new Map<string, Float32Array>();

  private constructor(
    private facts: Facts,
    private tokenizer: Tokenizer,
    private sessions: Record<Graph, ort.InferenceSession>,
  ) {}

  /** Load the folder that `transformers-pat export` wrote; `report` gets the share of bytes that have arrived. */
  static async load(folder: string, report: (share: number) => void): Promise<Segmenter> {
    const facts: Facts = await (await get(`${folder}/pat_onnx.json`)).json();
    if (facts.format_version !== FORMAT_VERSION) throw new Error("The model is of another version: export it again.");
    const tokenizer = new Tokenizer(await (await get(`${folder}/tokenizer.json`)).json(), {});
    const files = await download(GRAPHS.map((graph) => `${folder}/${graph}.onnx`), report);
    const sessions = {} as Record<Graph, ort.InferenceSession>;
    // The image graph first: what is shown first needs it first.
    for (const [index, graph] of GRAPHS.entries()) sessions[graph] = await ort.InferenceSession.create(files[index]);
    return new Segmenter(facts, tokenizer, sessions);
  }

  async read(photo: ImageData): Promise<Features> {
    const { data, height, width } = toPixelValues(photo, this.facts);
    const output = await this.sessions.image.run({ pixel_values: new ort.Tensor(data, [1, 3, height, width]) });
    const codes = this.facts.codebook_sizes.map((_, level) => output[`codes_${level}`]);
    return { dense: output.dense_embeds, codes };
  }

  /** Logits (labels, rows, columns); with `background` the last one stands for none of the labels. */
  async segment(features: Features, labels: string[], background: boolean): Promise<ort.Tensor> {
    const rows = await this.embed(labels);
    if (background) rows.push(Float32Array.from(this.facts.background_embed));
    const dim = rows[0].length;
    const classEmbeds = new Float32Array(rows.length * dim);
    rows.forEach((row, index) => classEmbeds.set(row, index * dim));
    const codes = Object.fromEntries(features.codes.map((level, number) => [`codes_${number}`, level]));
    const { logits } = await this.sessions.segment.run({
      dense_embeds: features.dense,
      ...codes,
      class_embeds: new ort.Tensor(classEmbeds, [rows.length, dim]),
    });
    return logits;
  }

  /** The picture that the codes of the coarsest levels stand for. */
  async decode(features: Features, numLevels: number): Promise<ImageData> {
    const codes = Object.fromEntries(features.codes.map((level, number) => [`codes_${number}`, level]));
    const keep = Uint8Array.from(features.codes, (_, level) => Number(level < numLevels));
    const { pixel_values } = await this.sessions.codes.run({ ...codes, keep: new ort.Tensor("bool", keep, [keep.length]) });
    const [, , height, width] = pixel_values.dims;
    const picture = new ImageData(width, height);
    const area = height * width;
    const pixels = pixel_values.data as Float32Array;
    for (let i = 0; i < area; i++) {
      for (let channel = 0; channel < 3; channel++) {
        const { image_mean, image_std } = this.facts;
        picture.data[4 * i + channel] = (pixels[channel * area + i] * image_std[channel] + image_mean[channel]) * 255;
      }
      picture.data[4 * i + 3] = 255;
    }
    return picture;
  }

  levels(features: Features): CodeLevel[] {
    return features.codes.map((level, number) => ({
      rows: level.dims[1],
      columns: level.dims[2],
      codes: Int32Array.from(level.data as BigInt64Array, Number),
      codebookSize: this.facts.codebook_sizes[number],
    }));
  }

  /** Class embeddings, unit length: the mean over synonyms and templates. Words are encoded once. */
  private async embed(labels: string[]): Promise<Float32Array[]> {
    for (const label of labels) {
      if (!this.embeds.has(label)) this.embeds.set(label, await this.encode(label));
    }
    return labels.map((label) => this.embeds.get(label)!);
  }

  private async encode(label: string): Promise<Float32Array> {
    const words = label.split(";").map((word) => word.trim());
    const prompts = words.flatMap((word) => this.facts.prompt_templates.map((template) => template.replace("{}", () => word)));
    const ids = prompts.map((prompt) => this.tokenizer.encode(prompt).ids);
    const length = Math.max(...ids.map((row) => row.length));
    if (length > this.facts.max_prompt_tokens) throw new UserError(`“${label.slice(0, 40)}…” is too long: shorten it.`);
    const padded = ids.flatMap((row) => [...row, ...Array(length - row.length).fill(this.facts.pad_token_id)]);
    const input = new ort.Tensor("int64", BigInt64Array.from(padded, BigInt), [ids.length, length]);
    const { prompt_embeds } = await this.sessions.text.run({ input_ids: input });
    const [count, dim] = prompt_embeds.dims;
    const data = prompt_embeds.data as Float32Array;
    const sum = new Float32Array(dim);
    for (let prompt = 0; prompt < count; prompt++) for (let i = 0; i < dim; i++) sum[i] += data[prompt * dim + i];
    const norm = Math.hypot(...sum);
    return sum.map((value) => value / norm);
  }
}

/** The best label of each pixel: logits resized bilinearly, the first of equal ones. */
export function labelMap(logits: ort.Tensor, height: number, width: number): Uint16Array {
  const [, count, rows, columns] = logits.dims;
  const data = logits.data as Float32Array;
  const [down, across] = [bilinear(rows, height), bilinear(columns, width)];
  const best = new Float32Array(height * width).fill(-Infinity);
  const winner = new Uint16Array(height * width);
  const line = new Float32Array(columns);
  for (let label = 0; label < count; label++) {
    for (let y = 0; y < height; y++) {
      const { first, second, share } = down[y];
      const [upper, lower] = [first, second].map((row) => (label * rows + row) * columns);
      for (let x = 0; x < columns; x++) line[x] = data[upper + x] * (1 - share) + data[lower + x] * share;
      for (let x = 0, at = y * width; x < width; x++, at++) {
        const { first, second, share } = across[x];
        const value = line[first] * (1 - share) + line[second] * share;
        if (value > best[at]) {
          best[at] = value;
          winner[at] = label;
        }
      }
    }
  }
  return winner;
}

function bilinear(before: number, after: number): { first: number; second: number; share: number }[] {
  return Array.from({ length: after }, (_, index) => {
    const source = Math.max(0, ((index + 0.5) * before) / after - 0.5);
    const first = Math.min(Math.floor(source), before - 1);
    return { first, second: Math.min(first + 1, before - 1), share: source - first };
  });
}

async function get(url: string): Promise<Response> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.split("/").pop()} could not be loaded (${response.status}).`);
  return response;
}

async function download(urls: string[], report: (share: number) => void): Promise<Uint8Array[]> {
  const responses = await Promise.all(urls.map(get));
  const total = responses.reduce((sum, response) => sum + Number(response.headers.get("content-length")), 0);
  let arrived = 0;
  return Promise.all(
    responses.map(async (response) => {
      const parts: Uint8Array[] = [];
      const reader = response.body!.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        parts.push(part.value);
        arrived += part.value.length;
        if (total) report(Math.min(1, arrived / total));
      }
      return new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
    }),
  );
}
