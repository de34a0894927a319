// The page: its buttons, what it shows, and the microphone. The work is done in worker.js.
//
// For tests and the console: `kws.ready` (a promise: the spotters that came with the page are open), `kws.open(bytes,
// name)`, `await kws.score(samples, rate)` (int16 units through fresh streams; for each spotter its name, the scores by
// step and label, and what is found, as kws.runtime gives them), `kws.heard` (what the microphone's sound has given).

import { Chart, colour } from "./chart.js";

const $ = (id) => document.getElementById(id);
const KEPT = 200; // words heard that are listed
const LIT_MS = 1500;
const SILENT_MS = 4000; // of nothing but zeros: a muted microphone
const LOWEST_DB = -60;

const chart = new Chart($("chart"));
const spotters = new Map(); // by number: {name, about, words: [{label, chip, n}]}
const heard = [];
let listening = null; // {context, track, …} while the microphone is open
let starting = false;
let numbers = 0;

const worker = new Worker("worker.js", { type: "module" });
const asked = new Map();
worker.onmessage = ({ data }) => {
  if (data.level) {
    show(data);
    return;
  }
  const { resolve, reject } = asked.get(data.id);
  asked.delete(data.id);
  if (data.error === undefined) resolve(data.result);
  else reject(new Error(data.error));
};
worker.onerror = (event) => {
  const reason = `The part of this page that listens could not be loaded${event.message ? ` (${event.message})` : ""}. Load the page again; if that does not help, the browser may be too old.`;
  say(reason, true);
  for (const { reject } of asked.values()) reject(new Error(reason));
  asked.clear();
};

function ask(kind, message = {}, transfer = []) {
  const id = ++numbers;
  return new Promise((resolve, reject) => {
    asked.set(id, { resolve, reject });
    worker.postMessage({ kind, id, ...message }, transfer);
  });
}

/** What is going on, or what is wrong, in a sentence. */
function say(sentence, bad = false) {
  $("status").textContent = sentence;
  $("status").classList.toggle("bad", bad);
}

// Spotters

async function open(bytes, name) {
  const key = ++numbers;
  const { about, words, threshold } = await ask("open", { key, bytes });
  const spotter = { name, about, words: words.map((i) => ({ key, index: i, label: about.labels[i], threshold: threshold[i], points: [] })) };
  spotters.set(key, spotter);
  arrange();
  return key;
}

async function close(key) {
  spotters.delete(key);
  arrange();
  await ask("close", { key });
}

/** Draws the lists of words and files again, after one has come or gone. */
function arrange() {
  const all = [...spotters.values()].flatMap((spotter) => spotter.words);
  const known = all.map((word) => word.label);
  $("words").replaceChildren(...all.map((word, n) => {
    const chip = document.createElement("li");
    chip.style.setProperty("--colour", `var(${colour(n)})`);
    chip.append(word.label);
    const twice = known.indexOf(word.label) !== known.lastIndexOf(word.label);
    const whose = document.createElement("small"); // the file, where two know the word
    whose.textContent = twice ? spotters.get(word.key).name.replace(/\.onnx$/, "") : "";
    chip.append(whose, document.createElement("i"));
    Object.assign(word, { chip, whose, n });
    return chip;
  }));
  $("files").replaceChildren(...[...spotters].map(([key, { name, about, words }]) => {
    const row = document.createElement("li");
    const what = document.createElement("span");
    const more = document.createElement("small");
    const button = document.createElement("button");
    what.textContent = name;
    more.textContent = `${words.length} ${words.length === 1 ? "word" : "words"}, ${about.sample_rate / 1000} kHz` + (about.licence ? `, ${about.licence}` : "");
    button.type = "button";
    button.textContent = "×";
    button.setAttribute("aria-label", `Remove ${name}`);
    button.onclick = () => close(key);
    what.append(more);
    row.append(what, button);
    return row;
  }));
  chart.words = all;
  chart.draw();
  const none = !all.length;
  $("no-words").hidden = !none;
  $("drop").classList.toggle("wanted", none);
  if (none && listening) stop();
  $("start").disabled = false;
  button();
  if (!listening) say(none ? "A spotter is a file that knows words. Choose one to begin." : "Ready. Start, allow the microphone, and say a word.");
}

async function take(list) {
  $("refusal").textContent = "";
  for (const file of list) {
    try {
      await open(new Uint8Array(await file.arrayBuffer()), file.name);
    } catch (error) {
      $("refusal").textContent = `${file.name} cannot be used: ${error.message}.`;
    }
  }
}

$("file").onchange = async ({ target }) => {
  await take([...target.files]);
  target.value = "";
};
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}

// The microphone

const REFUSED = {
  NotAllowedError: "The browser did not allow this page the microphone. Allow it with the sign beside the address, then start again.",
  NotFoundError: "There is no microphone. Connect one, then start again.",
  NotReadableError: "The microphone cannot be opened: another program may be using it. Close that, then start again.",
  SecurityError: "This browser's settings forbid pages the microphone.",
};

async function start() {
  if (!navigator.mediaDevices?.getUserMedia) {
    say("Browsers give the microphone only to pages at https:// or on this computer (http://localhost). Open this page there.", true);
    return;
  }
  starting = true; // and the button stays as it is: disabled, it would lose the keyboard's focus
  say("Waiting for the microphone: the browser may ask you to allow it.");
  let stream, context;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    context = new AudioContext({ latencyHint: "interactive" });
    await context.audioWorklet.addModule("worklet.js");
    const source = context.createMediaStreamSource(stream);
    const node = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
    const { port1, port2 } = new MessageChannel();
    chart.clear();
    forget();
    worker.postMessage({ kind: "start", rate: context.sampleRate, port: port1 }, [port1]);
    node.port.postMessage({ to: port2 }, [port2]);
    source.connect(node).connect(context.destination); // which it leaves silent; some browsers run only what sounds
    await context.resume();
    const [track] = stream.getAudioTracks();
    listening = { context, track, source, zeros: performance.now(), lag: null, count: 0 };
    track.onended = () => stop("The microphone is gone: it was unplugged, or its permission was taken back.", true);
    say(`Listening to ${track.label || "the microphone"}.`);
    tick();
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    context?.close();
    say(REFUSED[error.name] ?? `The microphone cannot be used: ${error.message || error.name}.`, true);
  }
  starting = false;
  button();
}

async function stop(reason = "Stopped.", bad = false) {
  const { context, track } = listening;
  listening = null;
  track.onended = null;
  track.stop();
  button();
  level(0, 0);
  for (const { words } of spotters.values()) for (const { chip } of words) chip.style.setProperty("--score", 0);
  say(reason, bad);
  const stopped = ask("stop"); // before a next start, however long closing takes
  await context.close();
  await stopped;
}

function button() {
  $("start").setAttribute("aria-pressed", String(Boolean(listening)));
  $("start").textContent = listening ? "Stop" : spotters.size ? "Start listening" : "Choose a spotter";
}

$("start").onclick = () => {
  if (listening) stop();
  else if (!spotters.size) $("file").click();
  else if (!starting) start();
};

// What is shown of the sound

const decibels = (x) => 20 * Math.log10(Math.max(x, 1e-5));

function level(peak, rms) {
  const db = decibels(rms);
  const share = Math.min(Math.max(1 - db / LOWEST_DB, 0), 1);
  $("level").firstElementChild.style.clipPath = `inset(0 ${100 * (1 - share)}% 0 0 round 6px)`;
  $("level").setAttribute("aria-valuenow", Math.round(Math.max(db, LOWEST_DB)));
  $("decibels").textContent = peak >= 0.999 ? "too loud" : peak ? `${Math.round(db)} dB`.replace("-", "−") : "– dB";
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

/** What came of a block of sound: the worker's message. */
function show({ level: { peak, rms }, seconds, busyMs, lagMs, dropped, results }) {
  if (!listening) return;
  level(peak, rms);
  if (peak) listening.zeros = performance.now();
  if (performance.now() - listening.zeros > SILENT_MS) say("The microphone gives perfect silence: it may be muted.", true);
  else if (dropped) say(`This device is too slow: ${dropped.toFixed(1)} s of sound were left out.`, true);
  else if ($("status").classList.contains("bad")) say(`Listening to ${listening.track.label || "the microphone"}.`);
  for (const { key, steps } of results) {
    const spotter = spotters.get(key);
    if (!spotter) continue;
    for (const { time, smoothed, found } of steps) {
      const word = found && spotter.words.find((each) => each.label === found.word);
      chart.add(key, time, spotter.words.map((each) => smoothed[each.index]), found && { time, label: found.word, n: word.n });
      if (found) tell(spotter, word, { ...found, start: found.start + time - found.end, end: time });
    }
    const last = steps.at(-1).smoothed;
    for (const { chip, index } of spotter.words) chip.style.setProperty("--score", last[index].toFixed(3));
    chart.slack = spotter.about.chunk / spotter.about.sample_rate;
  }
  if (results.length) figures(seconds, busyMs, lagMs);
}

function figures(seconds, busyMs, lagMs) {
  listening.lag = listening.lag === null ? lagMs : 0.9 * listening.lag + 0.1 * lagMs;
  const chunk = Math.max(...[...spotters.values()].map(({ about }) => (1000 * about.chunk) / about.sample_rate));
  const wait = chunk + (1000 * 1024) / listening.context.sampleRate;
  const work = (0.1 * busyMs) / seconds; // ms for 100 ms
  $("latency").textContent = `${Math.round(wait + listening.lag)} ms`;
  $("latency-words").textContent = `at most: ${Math.round(wait)} ms to gather sound, ${Math.round(listening.lag)} ms to score it`;
  $("load").textContent = work < 1 ? `${work.toFixed(1)} %` : `${Math.round(work)} %`;
  $("load-words").textContent = `of one core: ${work.toFixed(1)} ms of work in 100 ms`;
}

function tell(spotter, word, found) {
  heard.push({ spotter: spotter.name, ...found });
  const row = $("heard").insertRow(0);
  row.style.setProperty("--colour", `var(${colour(word.n)})`);
  for (const text of [found.word, clock(found.end), found.score.toFixed(2)]) row.insertCell().textContent = text;
  row.cells[0].append(word.whose.cloneNode(true));
  while ($("heard").rows.length > KEPT) $("heard").deleteRow(-1);
  if (heard.length > KEPT) heard.shift();
  $("nothing").hidden = true;
  $("heard").closest("section").classList.add("some");
  $("count").textContent = ++listening.count;
  $("announce").textContent = `${found.word}, at ${clock(found.end)}`;
  word.chip.classList.add("fired");
  clearTimeout(word.dark);
  word.dark = setTimeout(() => word.chip.classList.remove("fired"), LIT_MS);
}

/** Empties the list of what was heard. */
function forget() {
  heard.length = 0;
  $("heard").replaceChildren();
  $("heard").closest("section").classList.remove("some");
  $("nothing").hidden = false;
  $("count").textContent = "";
}

function tick() {
  if (!listening) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  chart.draw(still ? 0 : chart.slack);
  setTimeout(() => requestAnimationFrame(tick), still ? 200 : 25);
}

// Begin

async function begin() {
  const listed = await (await fetch("spotters.json")).json();
  for (const { name, file } of listed) {
    try {
      await open(new Uint8Array(await (await fetch(file)).arrayBuffer()), name);
    } catch (error) {
      $("refusal").textContent = `${name} cannot be used: ${error.message}.`;
    }
  }
  arrange();
}

globalThis.kws = {
  heard, open, close, ready: begin(),
  score: (samples, rate) => Promise.all([...spotters].map(async ([key, { name }]) => ({
    name, ...(await ask("score", { key, samples: Float32Array.from(samples), rate })),
  }))),
};
