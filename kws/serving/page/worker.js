// Beside the page: ONNX Runtime, the spotters, and the streams through them. Sound comes straight from the audio thread.

import * as ort from "./ort/ort.js";
import { Spotter, Stream } from "./spotter.js";

ort.env.wasm.numThreads = 1; // a step is too small to share
ort.env.wasm.wasmPaths = { wasm: new URL("./ort/ort.wasm", import.meta.url).href };

const FULL_SCALE = 32768;
const BACKLOG_S = 2; // sound that may wait; what comes on top is dropped, and said
const LEVEL_S = 0.05;

const spotters = new Map(); // by number
let streams = new Map();
let live = null; // the port that sound comes from
let turn = Promise.resolve();

/** One thing after the other: a stream is nobody's to share. */
function queue(work) {
  turn = turn.then(work, work);
  return turn;
}

async function hear(session, block, at) {
  session.waiting -= block.length;
  if (live !== session) return;
  const samples = block.map((x) => x * FULL_SCALE);
  for (const x of block) {
    session.peak = Math.max(session.peak, Math.abs(x));
    session.power += x * x;
  }
  const begun = performance.now();
  const results = [];
  for (const [key, stream] of streams) {
    const steps = await stream.push(samples);
    if (steps.length) results.push({ key, steps: steps.map(({ time, smoothed, found }) => ({ time: time + stream.begun, smoothed, found })) });
  }
  session.busy += performance.now() - begun;
  session.samples += block.length;
  session.sinceLevel += block.length;
  if (session.sinceLevel >= LEVEL_S * session.rate || results.length) {
    postMessage({
      level: { peak: session.peak, rms: Math.sqrt(session.power / session.sinceLevel) },
      seconds: session.samples / session.rate, busyMs: session.busy, lagMs: Date.now() - at, dropped: session.dropped / session.rate,
      results,
    });
    session.peak = session.power = session.sinceLevel = 0;
  }
}

/** Opens the streams of a session and takes sound from its port. */
function start({ rate, port }) {
  const session = { rate, waiting: 0, dropped: 0, samples: 0, busy: 0, peak: 0, power: 0, sinceLevel: 0 };
  queue(() => {
    live = session;
    streams = new Map([...spotters].map(([key, spotter]) => [key, begin(spotter, rate, 0)]));
  });
  port.onmessage = ({ data: { block, at } }) => {
    if (session.waiting > BACKLOG_S * rate) {
      session.dropped += block.length;
      return;
    }
    session.waiting += block.length;
    queue(() => hear(session, block, at));
  };
}

function begin(spotter, rate, seconds) {
  return Object.assign(new Stream(spotter, rate), { begun: seconds });
}

const answers = {
  async open({ key, bytes }) {
    const spotter = await Spotter.open(ort, bytes);
    spotters.set(key, spotter);
    if (live) streams.set(key, begin(spotter, live.rate, live.samples / live.rate));
    const { words, threshold } = new Stream(spotter, spotter.about.sample_rate).decision;
    return { about: spotter.about, words, threshold };
  },
  async close({ key }) {
    streams.delete(key);
    await spotters.get(key)?.session.release();
    spotters.delete(key);
  },
  /** Samples in int16 units through a stream of its own: what tests compare with kws.runtime. */
  async score({ key, samples, rate }) {
    const stream = new Stream(spotters.get(key), rate);
    const steps = [];
    for (let at = 0; at < samples.length; at += rate) steps.push(...(await stream.push(samples.subarray(at, at + rate))));
    steps.push(...(await stream.push(new Float32Array(0), true)));
    return { scores: steps.map((s) => s.scores), found: steps.map((s) => s.found).filter(Boolean) };
  },
  async stop() {
    live = null;
    streams = new Map();
  },
};

onmessage = ({ data }) => {
  if (data.kind === "start") {
    start(data);
    return;
  }
  queue(async () => {
    try {
      postMessage({ id: data.id, result: await answers[data.kind](data) });
    } catch (error) {
      postMessage({ id: data.id, error: String(error?.message ?? error) });
    }
  });
};
