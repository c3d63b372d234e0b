// The page: what people choose goes to the worker, what comes back is drawn.
import catUrl from "../../examples/photos/cat.jpg";
import chinaUrl from "../../examples/photos/china.jpg";
import { colorOf, drawCodes, drawOverlay, put } from "./draw";
import type { CodeLevel } from "./segmenter";
import type { Reply, Request, Results } from "./worker";

const EXAMPLES: Record<string, string> = { china: chinaUrl, cat: catUrl };
const LONGEST_SIDE = 1024; // of what is shown; the model reads the photo smaller
const MOST_PIXELS = 100_000_000;
const MOST_WORDS = 300;
const WAIT_WHILE_TYPING = 350; // milliseconds

const find = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const words = find<HTMLInputElement>("words");
const background = find<HTMLInputElement>("background");
const opacity = find<HTMLInputElement>("opacity");
const overlay = find<HTMLCanvasElement>("overlay");
const codesCanvas = find<HTMLCanvasElement>("codes");

interface Shown {
  photo: ImageData;
  levels: CodeLevel[];
  labels: (string | null)[]; // null: none of the words
  map: Uint16Array;
}

let shown: Shown | null = null;
const hiddenLabels = new Set<string | null>();
let level = 0;
let chosenCode: number | null = null;
let photoTurn = 0; // what is older than the newest photo, or the newest words, is not shown
let wordsTurn = 0;
let reading = false;

// The worker

const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
const waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
let numRequests = 0;

worker.onmessage = ({ data }: MessageEvent<Reply>) => {
  if ("share" in data) return say(`Loading the model: ${Math.round(100 * data.share)} %`);
  const { resolve, reject } = waiting.get(data.id)!;
  waiting.delete(data.id);
  if (data.error === undefined) resolve(data.value as never);
  else reject(new Error(data.user ? data.error : `The model stopped: ${data.error}`));
};
worker.onerror = (event) => fail(new Error(`The model can't run in this browser: ${event.message}`));

function ask<K extends Request["kind"]>(request: Extract<Request, { kind: K }>): Promise<Results[K]> {
  const id = ++numRequests;
  worker.postMessage({ id, request });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

// Photos and words

const ready = ask({ kind: "load", folder: new URL("model", document.baseURI).href });

async function usePhoto(source: Blob): Promise<void> {
  clearError();
  let photo: { full: ImageData; shownPhoto: ImageData };
  try {
    photo = await readPhoto(source);
    await ready;
  } catch (error) {
    return fail(error);
  }
  const turn = ++photoTurn;
  reading = true;
  try {
    say("Reading the photo");
    const start = performance.now();
    const levels = await ask({ kind: "read", photo: photo.full });
    if (turn !== photoTurn) return;
    const seconds = (performance.now() - start) / 1000;
    const { width, height } = photo.shownPhoto;
    shown = { photo: photo.shownPhoto, levels, labels: [], map: new Uint16Array(width * height) };
    chosenCode = null;
    reading = false;
    put(overlay, photo.shownPhoto);
    find("legend").replaceChildren();
    await useWords(`Photo read in ${seconds.toFixed(1)} s`);
  } catch (error) {
    [shown, reading] = [null, false]; // the model may be left with another photo than the page
    fail(error);
  }
}

async function readPhoto(source: Blob): Promise<{ full: ImageData; shownPhoto: ImageData }> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(source);
  } catch {
    throw new Error("This file is no photo that the browser can read: choose a JPEG, PNG or WebP.");
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error("This photo has more than 100 megapixels: make it smaller.");
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const sides = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  return { full: pixels(bitmap, bitmap.width, bitmap.height), shownPhoto: pixels(bitmap, sides[0], sides[1]) };
}

/** The picture's pixels at a size, on white where it is transparent. */
function pixels(bitmap: CanvasImageSource, width: number, height: number): ImageData {
  const context = new OffscreenCanvas(width, height).getContext("2d")!;
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

async function useWords(before = ""): Promise<void> {
  if (!shown || reading) return; // a photo that is being read will come here
  const turn = ++wordsTurn;
  const current = shown;
  try {
    clearError();
    const labels = readWords();
    const withNone = background.checked;
    const start = performance.now();
    const { width, height } = current.photo;
    const map = await ask({ kind: "segment", labels, background: withNone, width, height });
    if (turn !== wordsTurn || current !== shown) return;
    const seconds = (performance.now() - start) / 1000;
    current.labels = withNone ? [...labels, null] : labels;
    current.map = map;
    showMasks();
    if (!find("tokens").hidden) await showTokens();
    say([before, `${labels.length} words in ${seconds.toFixed(1)} s`].filter(Boolean).join(", "));
  } catch (error) {
    if (turn === wordsTurn) fail(error);
  }
}

function readWords(): string[] {
  const labels = words.value.split(",").map((word) => word.trim());
  const given = labels.filter((label) => label !== "");
  if (given.length === 0) throw new Error("Type what to look for, for instance: sky, tree, car");
  if (given.length > MOST_WORDS) throw new Error(`${given.length} words are too many for this page: give at most ${MOST_WORDS}.`);
  for (const label of given) {
    if (label.split(";").some((word) => word.trim() === "")) throw new Error(`“${label}” has an empty synonym.`);
  }
  const seen = new Set(given.map((label) => label.toLowerCase()));
  if (seen.size < given.length) throw new Error("A word is given twice: words must differ.");
  if (given.length === 1 && !background.checked) {
    throw new Error("One word alone would get every pixel: add another, or tick “Mark what is none of these”.");
  }
  return given;
}

// What is shown

const name = (label: string | null) => (label === null ? "none of these" : label.split(";")[0].trim());

function showMasks(): void {
  if (!shown) return;
  const { photo, labels, map } = shown;
  const labelColors = labels.map(colorOf);
  drawOverlay(overlay, photo, map, labelColors, labels.map((label) => !hiddenLabels.has(label)), Number(opacity.value) / 100);
  const counts = new Array<number>(labels.length).fill(0);
  for (const label of map) counts[label]++;
  const found = [...labels.keys()].filter((index) => counts[index] > 0).sort((one, other) => counts[other] - counts[one]);
  find("legend").replaceChildren(...found.map((index) => legendEntry(labels[index], labelColors[index], counts[index] / map.length)));
}

function legendEntry(label: string | null, color: number[], share: number): HTMLLIElement {
  const button = document.createElement("button");
  button.type = "button";
  button.title = "Show or hide";
  button.setAttribute("aria-pressed", String(!hiddenLabels.has(label)));
  const swatch = span("swatch", "");
  swatch.style.background = `rgb(${color.join(" ")})`;
  button.append(swatch, span("", name(label)), span("share", share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`));
  button.onclick = () => {
    if (!hiddenLabels.delete(label)) hiddenLabels.add(label);
    showMasks();
  };
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function span(className: string, text: string): HTMLSpanElement {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

async function showTokens(): Promise<void> {
  if (!shown) return;
  const { levels } = shown;
  find("levels").replaceChildren(
    ...levels.map((_, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Level ${index + 1}`;
      button.setAttribute("aria-pressed", String(index === level));
      button.onclick = () => {
        [level, chosenCode] = [index, null];
        void showTokens().then(() => find("levels").querySelectorAll("button")[index].focus());
      };
      return button;
    }),
  );
  showCodes();
  const picture = await ask({ kind: "decode", numLevels: level + 1 });
  put(find<HTMLCanvasElement>("decoded"), picture);
  find("decoded-caption").textContent = level === 0 ? "From level 1" : `From levels 1 to ${level + 1}`;
}

function showCodes(): void {
  if (!shown) return;
  const { rows, columns, codes, codebookSize } = shown.levels[level];
  drawCodes(codesCanvas, shown.levels[level], chosenCode);
  const occurs = codes.filter((code) => code === chosenCode).length;
  find("codes-caption").textContent =
    chosenCode === null
      ? `${columns} × ${rows} cells, ${new Set(codes).size} of ${codebookSize} codes`
      : `Code ${chosenCode}: ${occurs} of ${codes.length} cells`;
}

function say(text: string): void {
  find("status").textContent = text;
}

function fail(error: unknown): void {
  const message = find("error");
  message.textContent = error instanceof Error ? error.message : String(error);
  message.hidden = false;
  say("");
}

function clearError(): void {
  find("error").hidden = true;
}

// Controls

find<HTMLInputElement>("file").onchange = ({ target }) => {
  const input = target as HTMLInputElement;
  if (input.files?.[0]) void usePhoto(input.files[0]);
  input.value = ""; // the same file can be chosen again
};

for (const button of document.querySelectorAll<HTMLButtonElement>("[data-example]")) {
  button.onclick = () => void useExample(button);
}

async function useExample(button: HTMLButtonElement): Promise<void> {
  words.value = button.dataset.words!;
  await usePhoto(await (await fetch(EXAMPLES[button.dataset.example!])).blob());
}

let typing: ReturnType<typeof setTimeout>;
words.oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => void useWords(), WAIT_WHILE_TYPING);
};
background.onchange = () => void useWords();
opacity.oninput = showMasks;

function choose(tab: "masks" | "tokens"): void {
  for (const one of ["masks", "tokens"]) {
    find(one).hidden = one !== tab;
    find(`${one}-tab`).setAttribute("aria-selected", String(one === tab));
  }
  if (tab === "tokens") void showTokens().catch(fail);
}
find("masks-tab").onclick = () => choose("masks");
find("tokens-tab").onclick = () => choose("tokens");

/** The index of the pointed pixel or cell of a canvas. */
function cellAt(canvas: HTMLCanvasElement, event: MouseEvent): number {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
  return Math.min(y, canvas.height - 1) * canvas.width + Math.min(x, canvas.width - 1);
}

overlay.onpointermove = (event) => {
  if (!shown || shown.labels.length === 0) return;
  const pointed = find("pointed");
  pointed.textContent = name(shown.labels[shown.map[cellAt(overlay, event)]]);
  pointed.style.left = `${event.offsetX + 12}px`;
  pointed.style.top = `${event.offsetY + 12}px`;
  pointed.hidden = false;
};
overlay.onpointerleave = () => (find("pointed").hidden = true);

codesCanvas.onclick = (event) => {
  const code = shown!.levels[level].codes[cellAt(codesCanvas, event)];
  chosenCode = code === chosenCode ? null : code;
  showCodes();
};

find("save").onclick = () => {
  const link = document.createElement("a");
  link.download = "masks.png";
  link.href = overlay.toDataURL("image/png");
  link.click();
};

document.body.ondragover = (event) => {
  event.preventDefault();
  overlay.parentElement!.classList.add("dropping");
};
document.body.ondragleave = () => overlay.parentElement!.classList.remove("dropping");
document.body.ondrop = (event) => {
  event.preventDefault();
  overlay.parentElement!.classList.remove("dropping");
  if (event.dataTransfer?.files[0]) void usePhoto(event.dataTransfer.files[0]);
};

// The camera

const dialog = find<HTMLDialogElement>("camera-dialog");
const video = find<HTMLVideoElement>("video");

find("camera").onclick = async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    dialog.showModal();
    await video.play();
  } catch {
    fail(new Error("The camera can't be used: allow it in the browser, or choose a photo."));
  }
};

dialog.onclose = () => {
  for (const track of (video.srcObject as MediaStream).getTracks()) track.stop();
  video.srcObject = null;
};

find("close-camera").onclick = () => dialog.close();
find("shoot").onclick = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d")!.drawImage(video, 0, 0);
  dialog.close();
  canvas.toBlob((blob) => void usePhoto(blob!), "image/png");
};

ready.catch(fail);
void useExample(document.querySelector<HTMLButtonElement>("[data-example]")!);
