// Runs the model off the page's thread. One photo at a time: "read" replaces the one before.
import * as ort from "onnxruntime-web/wasm";

import { type CodeLevel, type Features, labelMap, Segmenter, UserError } from "./segmenter";

// Threads need a page that is isolated from other origins (see README.md).
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

export type Request =
  | { kind: "load"; folder: string }
  | { kind: "read"; photo: ImageData }
  | { kind: "segment"; labels: string[]; background: boolean; height: number; width: number }
  | { kind: "decode"; numLevels: number };

export type Reply = { id: number; value?: unknown; error?: string; user?: boolean } | { share: number };

export interface Results {
  load: void;
  read: CodeLevel[];
  segment: Uint16Array;
  decode: ImageData;
}

let segmenter: Segmenter;
let features: Features;

async function answer(request: Request): Promise<Results[Request["kind"]]> {
  switch (request.kind) {
    case "load":
      segmenter = await Segmenter.load(request.folder, (share) => postMessage({ share }));
      return;
    case "read":
      features = await segmenter.read(request.photo);
      return segmenter.levels(features);
    case "segment": {
      const logits = await segmenter.segment(features, request.labels, request.background);
      return labelMap(logits, request.height, request.width);
    }
    case "decode":
      return segmenter.decode(features, request.numLevels);
  }
}

// One after the other, so that words never meet a photo that is half read.
let last: Promise<void> = Promise.resolve();
self.onmessage = ({ data: { id, request } }: MessageEvent<{ id: number; request: Request }>) => {
  last = last.then(async () => {
    try {
      postMessage({ id, value: await answer(request) });
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      postMessage({ id, error: message, user: error instanceof UserError });
    }
  });
};
