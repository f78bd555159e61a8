"use strict";

const $ = (id) => document.getElementById(id);
const LONGEST_RECORDING = 60; // seconds
const QUIETEST = -20; // place of the noise slider that means none
const FRAME_RATE = 25;

let tasks = []; // those of the model
let places = { audio: [], pictures: [] }; // what the sliders' places mean, null: off
let film = null; // the recording: a File or Blob
let running = null; // the request in progress, to be given up
let recorder = null;
let main = []; // pairs of rates that are always compared
let coming = new Set(); // pairs that the request in progress gives
let rows = new Map(); // replies by rates
let failures = new Map(); // messages by rates
let asked = new Map(); // the rates used, by those asked for: a film may lack sound or mouth
let parts = []; // what the model gets, see /page/compare
let shown = null; // the row whose words are on the page

// --- the server ------------------------------------------------------------------------------------------------------

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Fetch, or throw an Error whose message is one plain line. */
async function ask(address, options = {}) {
  let reply;
  try {
    reply = await fetch(address, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is it still running?");
  }
  if (reply.ok) return reply;
  if (reply.status === 401) {
    $("key-form").hidden = false;
    throw new Error($("key").value ? "This API key is wrong." : "This server asks for an API key.");
  }
  const wrong = await reply.json().catch(() => null);
  const later = reply.headers.get("retry-after");
  const message = wrong?.error?.message ?? `The server answers with status ${reply.status}.`;
  throw new Error(later ? `${message} (in about ${later} s)` : message);
}

/** The server-sent events of a reply, one by one. */
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const found = (rest + value).split("\n\n");
    rest = found.pop();
    for (const event of found) yield JSON.parse(event.replace(/^data: /, ""));
  }
}

async function meet() {
  try {
    const model = (await (await ask("v1/models")).json()).data[0];
    $("key-form").hidden = true;
    say(null);
    $("about").textContent = model.mome.description ?? `Model ${model.id}`;
    tasks = model.mome.tasks;
    const [first, ...rest] = model.mome.rates;
    const kind = (rates) => rates.replace(/[^,-]+/g, "");
    main = [first, ...rest.filter((rates) => kind(rates) === kind(first))];
    const pairs = model.mome.rates.map((rates) => rates.split(",").map((rate) => (rate === "-" ? null : Number(rate))));
    for (const [side, id] of [[0, "audio"], [1, "pictures"]]) {
      const known = [...new Set(pairs.map((pair) => pair[side]).filter((rate) => rate !== null))];
      const off = pairs.some((pair) => pair[side] === null) ? [null] : [];
      places[id] = [...off, ...known.sort((a, b) => b - a)];
      $(id).max = places[id].length - 1;
      $(id).value = places[id].indexOf(pairs[0][side]);
      $(id).disabled = places[id].length < 2;
    }
    label();
  } catch (error) {
    say(error.message);
  }
}

async function compare() {
  if (!film) return;
  running?.abort();
  const own = (running = new AbortController());
  coming = new Set([...main, chosen()]);
  rows = new Map();
  failures = new Map();
  asked = new Map();
  parts = [];
  say(null);
  show(null);
  $("rows").tBodies[0].replaceChildren();
  $("warnings").replaceChildren();
  $("result").setAttribute("aria-busy", "true");
  $("status").textContent = "Listening and looking …";
  const form = new FormData();
  form.append("rates", chosen());
  if (noise() !== null) form.append("noise", noise());
  form.append("file", film, "recording");
  try {
    let ended = false;
    for await (const event of events(await ask("page/compare", { method: "POST", body: form, signal: own.signal }))) {
      ended ||= event.type === "done" || event.type === "error";
      if (event.type === "part") addPart(event);
      else if (event.type === "row") addRow(event);
      else if (event.type === "error") throw new Error(event.error.message);
    }
    if (!ended) throw new Error("The server broke off: try again.");
    choose();
    announce();
  } catch (error) {
    if (own.signal.aborted) return;
    $("status").textContent = "";
    $("details").hidden = !rows.size;
    say(error.message);
  } finally {
    if (running === own) {
      running = null;
      $("result").removeAttribute("aria-busy");
    }
  }
}

// --- sources ---------------------------------------------------------------------------------------------------------

function open(blob, name) {
  film = blob;
  const video = $("video");
  video.srcObject = null;
  video.muted = false;
  if (video.src) URL.revokeObjectURL(video.src);
  video.src = URL.createObjectURL(blob);
  video.controls = true;
  stage();
  $("unplayable").hidden = true;
  $("hint").textContent = name;
  compare();
}

function stage() {
  $("stage").className = "";
  $("video").hidden = false;
}

async function example() {
  try {
    open(await (await ask("page/clip.mp4")).blob(), "The example: a synthetic voice and mouth");
  } catch (error) {
    say(error.message);
  }
}

async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  running?.abort();
  let stream;
  $("record").disabled = true;
  try {
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const video = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: FRAME_RATE } };
    const open = (wanted) => navigator.mediaDevices.getUserMedia(wanted);
    stream = await open({ audio, video }).catch((error) => {
      if (error.name !== "NotFoundError") throw error;
      return open({ audio }); // there is no camera
    });
  } catch (error) {
    say(`Camera and microphone are not to be had (${error.name}): allow them, or open a file.`);
    return;
  } finally {
    $("record").disabled = false;
  }
  say(null);
  stage();
  const video = $("video");
  video.srcObject = stream;
  video.muted = true;
  video.controls = false;
  video.play().catch(() => {});
  const blobs = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = (event) => blobs.push(event.data);
  recorder.onstop = () => {
    clearTimeout(timer);
    for (const track of stream.getTracks()) track.stop();
    const type = recorder.mimeType;
    recorder = null;
    $("record").textContent = "Record";
    $("record").setAttribute("aria-pressed", "false");
    open(new Blob(blobs, { type }), "Your recording");
  };
  recorder.start();
  const timer = setTimeout(() => recorder?.stop(), 1000 * LONGEST_RECORDING);
  $("record").textContent = "Stop";
  $("record").setAttribute("aria-pressed", "true");
  $("status").textContent = `Recording, for ${LONGEST_RECORDING} s at most: say something, then stop.`;
}

// --- rates and noise -------------------------------------------------------------------------------------------------

const rate = (id) => places[id][$(id).value] ?? null;
const chosen = () => [rate("audio"), rate("pictures")].map((each) => each ?? "-").join(",");
const noise = () => (Number($("noise").value) === QUIETEST ? null : -Number($("noise").value));

function told(row) {
  const [audio, pictures] = row.mome.rates.split(",");
  if (pictures === "-") return `Listening at rate ${audio}`;
  if (audio === "-") return `Reading lips at rate ${pictures}`;
  return `At audio rate ${audio} and video rate ${pictures}`;
}

function label() {
  for (const id of ["audio", "pictures"]) {
    const value = rate(id);
    $(`${id}-value`).textContent = value ?? "off";
    $(id).setAttribute("aria-valuetext", value === null ? "off" : `${value} frames to a token`);
  }
  const level = noise();
  $("noise-value").textContent = level === null ? "none" : `${level} dB`;
  $("noise").setAttribute("aria-valuetext", level === null ? "none" : `${level} decibels of speech above noise`);
}

/** A slider was moved to where there may be no such rates: the other one moves too. */
function settle(moved) {
  const other = moved === "audio" ? "pictures" : "audio";
  const task = rate("audio") === null ? "vsr" : rate("pictures") === null ? "asr" : "avsr";
  if (rate(moved) === null && rate(other) === null) $(other).value = $(other).max;
  else if (!tasks.includes(task)) $(other).value = rate(other) === null ? $(other).max : 0;
  label();
}

/** Show the row of the sliders' rates; returns whether it is there, or known not to be possible. */
function choose() {
  const row = rows.get(asked.get(chosen()));
  for (const each of $("rows").tBodies[0].rows) {
    const own = row !== undefined && each.dataset.rates === row.mome.rates;
    each.classList.toggle("chosen", own);
    each.querySelector("button")?.setAttribute("aria-pressed", String(own));
  }
  show(row ?? null);
  return row !== undefined || asked.has(chosen());
}

// --- the result ------------------------------------------------------------------------------------------------------

function say(line) {
  $("error").hidden = line === null;
  $("error").textContent = line ?? "";
}

function make(tag, text, options = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(options)) made.setAttribute(name, value);
  return made;
}

const number = (text) => make("td", text, { role: "cell", class: "number" });

function addRow(event) {
  const line = make("tr", null, { role: "row" });
  const own = event.error ? event.asked : event.mome.rates;
  asked.set(event.asked, own);
  if (rows.has(own)) {
    choose();
    return;
  }
  line.dataset.rates = own;
  const head = make("td", null, { role: "cell" });
  if (event.error) {
    failures.set(own, event.error.message);
    head.append(own);
    line.append(head, number("–"), number("–"), number("–"));
    line.append(make("td", event.error.message, { role: "cell", class: "failed" }));
  } else {
    rows.set(own, event);
    const { tokens, gflops, milliseconds, warnings } = event.mome;
    const button = make("button", own, { type: "button", "aria-pressed": "false", "aria-label": `Rates ${own}` });
    button.addEventListener("click", () => {
      const pair = own.split(",").map((each) => (each === "-" ? null : Number(each)));
      $("audio").value = places.audio.indexOf(pair[0]);
      $("pictures").value = places.pictures.indexOf(pair[1]);
      label();
      asked.set(chosen(), own);
      choose();
      announce();
    });
    head.append(button);
    line.append(head, number(tokens.total), number(gflops >= 100 ? gflops.toFixed(0) : gflops.toFixed(2)));
    line.append(number((milliseconds.encode + milliseconds.decode).toFixed(0)));
    line.append(make("td", event.text || "(nothing)", { role: "cell" }));
    const known = [...$("warnings").children].map((each) => each.textContent);
    for (const text of warnings) if (!known.includes(text)) $("warnings").append(make("li", text));
  }
  $("rows").tBodies[0].append(line);
  $("details").hidden = false;
  choose();
}

/** Say what the page shows; the words themselves are beside it already. */
function announce() {
  const failure = failures.get(chosen()) ?? "";
  $("status").textContent = shown ? `${told(shown)}${shown.text ? "" : ": nothing is said"}` : failure;
  if (shown?.text) $("status").append(make("span", `: ${shown.text}`, { class: "hidden" }));
}

const unsure = (word) => Math.max(0, Math.min(4, Math.round((1 - word.probability) * 6)));

/** Show a row's words: as text, as subtitles and as a table. */
function show(row) {
  shown = row;
  $("text").replaceChildren();
  $("subtitle").hidden = true;
  $("words").tBodies[0].replaceChildren();
  $("shades").hidden = !row?.words.length;
  for (const word of row?.words ?? []) {
    const per_cent = `${Math.round(100 * word.probability)} %`;
    const span = make("span", word.word, { class: `unsure-${unsure(word)}`, title: per_cent });
    if (unsure(word)) span.append(make("span", ` (unsure, ${per_cent})`, { class: "hidden" }));
    $("text").append(span, " ");
    const line = make("tr", null);
    line.append(make("td", word.word));
    for (const text of [word.start.toFixed(2), word.end.toFixed(2), per_cent])
      line.append(make("td", text, { class: "number" }));
    $("words").tBodies[0].append(line);
  }
  draw();
}

function addPart(part) {
  if (part.mouths) {
    part.picture = new Image();
    part.picture.onload = draw;
    part.picture.src = part.mouths;
  }
  parts.push(part);
  $("status").textContent = `Listening and looking, ${(part.start + part.seconds).toFixed(0)} s so far …`;
  draw();
}

// --- what moves with the film ----------------------------------------------------------------------------------------

function draw() {
  const now = $("video").srcObject ? 0 : $("video").currentTime;
  light(now);
  drawMouth(now);
  drawWave(now);
}

function light(now) {
  const words = shown?.words ?? [];
  const spans = $("text").querySelectorAll(":scope > span");
  words.forEach((word, k) => spans[k].classList.toggle("said", word.start <= now && now < word.end));
  const cue = shown?.cues.find((each) => each.start <= now && now < each.end);
  const subtitle = $("subtitle");
  subtitle.hidden = cue === undefined;
  if (cue === undefined) return;
  const end = shown.cues[shown.cues.indexOf(cue) + 1]?.start ?? Infinity;
  const inside = words.filter((word) => cue.start <= word.start && word.start < end);
  subtitle.replaceChildren();
  for (const word of inside) {
    subtitle.append(make("span", word.word, word.start <= now && now < word.end ? { class: "said" } : {}), " ");
  }
}

function drawMouth(now) {
  const canvas = $("mouth"), context = canvas.getContext("2d"), size = canvas.width;
  context.clearRect(0, 0, size, size);
  const part = parts.find((each) => each.picture?.complete && each.start <= now && now <= each.start + each.seconds);
  const has = parts.some((each) => each.picture);
  canvas.setAttribute("aria-label", has ? "Mouth, as the model sees it" : parts.length ? "No mouth" : "Mouth: none yet");
  if (!part) return;
  const frame = Math.min(Math.floor((now - part.start) * FRAME_RATE), part.count - 1);
  const x = (frame % part.columns) * size, y = Math.floor(frame / part.columns) * size;
  context.drawImage(part.picture, x, y, size, size, 0, 0, size, size);
}

function drawWave(now) {
  const canvas = $("wave"), context = canvas.getContext("2d"), style = getComputedStyle(document.body);
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  const { width, height } = canvas, heard = parts.filter((part) => part.peaks);
  canvas.setAttribute("aria-label", heard.length ? "Sound, as the model hears it" : parts.length ? "No sound" : "Sound: none yet");
  const known = $("video").duration; // infinite in some browsers for what they recorded
  const length = Math.max(Number.isFinite(known) ? known : 0, ...parts.map((part) => part.start + part.seconds));
  if (!length) return;
  context.fillStyle = style.getPropertyValue("--link");
  for (const part of heard) {
    const highest = new Uint8Array(width); // of the peaks that fall onto a column
    part.peaks.forEach((peak, k) => {
      const x = Math.floor(((part.start + k / part.per_second) / length) * width);
      highest[x] = Math.max(highest[x], peak);
    });
    const step = Math.max(1, Math.ceil(width / (length * part.per_second)));
    highest.forEach((peak, x) => {
      const high = Math.max((peak / 255) * height, 1);
      if (peak) context.fillRect(x, (height - high) / 2, step, high);
    });
  }
  context.fillStyle = style.color;
  context.fillRect((now / length) * width, 0, 2 * devicePixelRatio, height);
}

function follow() {
  draw();
  if (!$("video").paused) requestAnimationFrame(follow);
}

// --- what people do --------------------------------------------------------------------------------------------------

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = ""; // the same file may be chosen again
  if (file) open(file, file.name);
});
$("record").addEventListener("click", record);
$("example").addEventListener("click", example);
for (const id of ["audio", "pictures"]) {
  $(id).addEventListener("input", () => settle(id));
  $(id).addEventListener("change", () => {
    if (choose()) announce();
    else if (!(running && coming.has(chosen()))) compare();
  });
}
$("noise").addEventListener("input", label);
$("noise").addEventListener("change", compare);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  meet().then(compare);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});
$("video").addEventListener("play", follow);
for (const kind of ["seeked", "timeupdate", "loadedmetadata"]) $("video").addEventListener(kind, draw);
$("video").addEventListener("loadedmetadata", () => $("stage").classList.toggle("sound", !$("video").videoWidth));
$("video").addEventListener("error", () => {
  if (!film) return;
  $("unplayable").hidden = false;
  $("stage").className = "empty";
});
addEventListener("resize", draw);
if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
  $("record").disabled = true;
  $("hint").textContent += " To record, this browser needs https or localhost.";
}
meet();
