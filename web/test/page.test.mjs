// The built page in headless Chromium: npm run build, then npm test. CHROMIUM is the browser, if not /usr/bin/chromium.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { preview } from "vite";

const PHOTOS = new URL("../../examples/photos/", import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), "page-"));
let server, browser, page, problems;

before(async () => {
  server = await preview({ preview: { port: 0, host: "127.0.0.1" }, logLevel: "silent" });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
      "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"],
  });
});

after(async () => {
  await browser?.close();
  await server?.close();
});

async function open(options = {}) {
  page = await browser.newPage(options);
  problems = [];
  const { origin } = new URL(server.resolvedUrls.local[0]);
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (!["data:", "blob:"].includes(url.protocol) && url.origin !== origin) problems.push(`request to ${url}`);
  });
  await page.goto(server.resolvedUrls.local[0]);
}

async function done() {
  await page.close();
  assert.deepEqual(problems, []);
}

const status = () => page.textContent("#status");
const waitFor = (text) => page.waitForFunction((text) => document.getElementById("status").textContent.includes(text), text);

async function legend() {
  const entries = await page.$$eval("#legend button", (buttons) => buttons.map((one) => [...one.children].map((part) => part.textContent)));
  return Object.fromEntries(entries.map(([, label, share]) => [label, share.startsWith("<") ? 0 : parseInt(share)]));
}

async function type(words) {
  const old = await page.$eval("#status", (element) => (element.textContent = "waiting"));
  await page.fill("#words", words);
  await page.waitForFunction((old) => document.getElementById("status").textContent !== old, old);
}

test("the example is segmented within 5 s, with the shares of the Python runtime", async () => {
  const start = Date.now();
  await open();
  await page.waitForSelector("#legend button");
  const seconds = (Date.now() - start) / 1000;
  console.log(`first mask after ${seconds.toFixed(1)} s`);
  assert.ok(seconds < 5, `${seconds} s`);
  const found = await legend();
  execFileSync("transformers-pat", ["segment", join(PHOTOS, "china.jpg"), "--labels", "sky, building, tree, water",
    "--runtime", "onnx", "--model", "dist/model", "--output", scratch]);
  const { labels } = JSON.parse(readFileSync(join(scratch, "china.json")));
  for (const { label, share } of labels) {
    assert.ok(Math.abs((found[label] ?? 0) - 100 * share) <= 1.5, `${label}: ${found[label]} and ${100 * share}`);
  }
  await page.screenshot({ path: join(scratch, "masks.png") });
  await done();
});

test("words change without reading the photo again; labels are toggled; what fits none is marked", async () => {
  await open();
  await waitFor("Photo read");
  await type("roof, cloud;sky, lawn");
  assert.ok(!(await status()).includes("Photo read"), await status());
  const found = await legend();
  assert.ok("cloud" in found, JSON.stringify(found));
  const picture = () => page.$eval("#overlay", (canvas) => canvas.toDataURL());
  const before = await picture();
  await page.click("#legend button");
  assert.notEqual(await picture(), before);
  await page.click("#legend button");
  assert.equal(await picture(), before);
  await page.click("#background");
  await page.waitForFunction(() => document.getElementById("legend").textContent.includes("none of these"));
  await page.hover("#overlay");
  assert.ok((await page.textContent("#pointed")).length > 0);
  await done();
});

test("a photo of one's own, and the camera", async () => {
  await open();
  await waitFor("Photo read");
  await page.fill("#words", "cat, snow");
  const width = () => page.$eval("#overlay", (canvas) => canvas.width);
  const before = await width();
  await page.setInputFiles("#file", join(PHOTOS, "cat.jpg"));
  await page.waitForFunction((before) => document.getElementById("overlay").width !== before, before);
  await waitFor("2 words");
  assert.ok("cat" in (await legend()));
  await page.click("#camera");
  await page.waitForFunction(() => document.getElementById("video").videoWidth > 0);
  await page.click("#shoot");
  await waitFor("Photo read");
  assert.equal(await page.isVisible("#camera-dialog"), false);
  await done();
});

test("tokens, level by level", async () => {
  await open();
  await waitFor("Photo read");
  await page.click("#tokens-tab");
  const seen = new Set();
  for (const level of [1, 2, 3]) {
    await page.click(`#levels button >> text=Level ${level}`);
    await page.waitForFunction((level) => document.getElementById("decoded-caption").textContent.endsWith(` ${level}`), level);
    seen.add(await page.$eval("#decoded", (canvas) => canvas.toDataURL()));
    seen.add(await page.$eval("#codes", (canvas) => canvas.toDataURL()));
    if (level === 3) await page.screenshot({ path: join(scratch, "tokens.png"), fullPage: true });
  }
  assert.equal(seen.size, 6);
  await page.click("#codes");
  assert.match(await page.textContent("#codes-caption"), /^Code \d+: \d+ of \d+ cells$/);
  await done();
});

test("mistakes are said in the page, and the next try works", async () => {
  await open();
  await waitFor("Photo read");
  const error = () => page.textContent("#error");
  writeFileSync(join(scratch, "notes.jpg"), "no photo");
  await page.setInputFiles("#file", join(scratch, "notes.jpg"));
  await page.waitForSelector("#error:visible");
  assert.match(await error(), /no photo/);
  const words = {
    "": /Type what to look for/,
    sky: /One word alone/,
    "sky, Sky": /given twice/,
    "sky, ;": /empty synonym/,
    [Array.from({ length: 301 }, (_, i) => `w${i}`).join(",")]: /at most 300/,
    [`sky, ${"very ".repeat(80)}long`]: /too long/,
  };
  for (const [text, message] of Object.entries(words)) {
    await type(text);
    assert.match(await error(), message);
  }
  await type("sky, tree");
  assert.equal(await page.isVisible("#error"), false);
  assert.ok("sky" in (await legend()));
  await done();
});

test("by keyboard", async () => {
  await open();
  await waitFor("Photo read");
  const seen = [];
  for (let step = 0; step < 14; step++) {
    await page.keyboard.press("Tab");
    seen.push(await page.evaluate(() => document.activeElement.id || document.activeElement.textContent));
  }
  for (const id of ["file", "camera", "words", "background", "opacity", "masks-tab", "tokens-tab", "save"]) {
    assert.ok(seen.includes(id), `${id} in ${seen}`);
  }
  await page.focus("#tokens-tab");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#decoded-caption:not(:empty)");
  await done();
});

test("on a phone, dark, nothing is cut off", async () => {
  await open({ viewport: { width: 390, height: 844 }, colorScheme: "dark", hasTouch: true });
  await waitFor("Photo read");
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok((await overflow()) <= 0);
  await page.screenshot({ path: join(scratch, "phone.png"), fullPage: true });
  await page.tap("#tokens-tab");
  await page.waitForSelector("#decoded-caption:not(:empty)");
  assert.ok((await overflow()) <= 0);
  await page.screenshot({ path: join(scratch, "phone-tokens.png"), fullPage: true });
  await done();
  console.log(`screenshots in ${scratch}`);
});
