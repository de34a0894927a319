// An exported file and the streams through it: kws/runtime/file.py and kws/runtime/spotter.py, for a browser.

import { Decision } from "./decision.js";
import { Resampler } from "./resampler.js";

const FORMAT = 1;
const MAX_BYTES = 64 << 20;
const OURS = "python -m kws.export makes one";

/** What is wrong with a file, for a person. */
export class Refused extends Error {}

/** Number, wire type and value of each field of a Protocol Buffers message. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1, n = 0; n < 10 && at < bytes.length; n++, scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new Refused(`it is damaged, or no ONNX file (${OURS})`);
  };
  while (at < bytes.length) {
    const key = varint();
    const wire = key % 8;
    const number = Math.floor(key / 8);
    if (wire === 0) {
      yield [number, wire, varint()];
      continue;
    }
    const size = wire === 2 ? varint() : { 1: 8, 5: 4 }[wire];
    if (!number || !(size <= bytes.length - at)) throw new Refused(`it is damaged, or no ONNX file (${OURS})`);
    yield [number, wire, bytes.subarray(at, at + size)];
    at += size;
  }
}

const text = (bytes) => new TextDecoder("utf-8", { fatal: true }).decode(bytes);

/** What a file says of itself: the entry "kws" of its metadata (ModelProto's field 14). */
export function describe(bytes) {
  if (bytes.length > MAX_BYTES) throw new Refused(`it is larger than ${MAX_BYTES >> 20} MB; no spotter is`);
  let found, graphs = 0;
  for (const [number, wire, value] of fields(bytes)) {
    if (number === 7 && wire === 2) graphs++;
    if (number !== 14 || wire !== 2) continue;
    const entry = new Map(Array.from(fields(value), ([n, w, v]) => [n, w === 2 ? v : new Uint8Array()]));
    if (entry.has(1) && entry.has(2) && new TextDecoder().decode(entry.get(1)) === "kws") found = entry.get(2);
  }
  if (graphs !== 1) throw new Refused(`it is damaged, or no ONNX file (${OURS})`);
  if (!found) throw new Refused(`it is an ONNX file, but no spotter (${OURS})`);
  let about;
  try {
    about = JSON.parse(text(found));
  } catch {
    throw new Refused("its description is damaged");
  }
  if (about?.format !== FORMAT) {
    throw new Refused(`it is of format ${about?.format}, this page reads ${FORMAT}: upgrade kws, or export it again`);
  }
  const between = (value, low, high) => typeof value === "number" && low <= value && value <= high;
  const whole = (value, low, high) => Number.isInteger(value) && between(value, low, high);
  const { labels, state, sample_rate: rate } = about;
  const good =
    Array.isArray(labels) && labels.length && labels.length <= 10000 && labels.every((l) => typeof l === "string") &&
    whole(rate, 1000, 384000) && whole(about.steps, 1, 10000) && whole(about.chunk, 1, 10 * rate) &&
    whole(about.overlap, 0, 1 << 20) && about.chunk % about.steps === 0 && between(about.step_ms, 0.1, 10000) &&
    between(about.offset_ms, 0, 10000) && about.decision && typeof about.decision === "object" &&
    state && typeof state === "object" && Object.keys(state).length <= 1000 && Object.values(state).every((shape) =>
      Array.isArray(shape) && shape.every((n) => whole(n, 1, 1 << 22)) && shape.reduce((a, b) => a * b, 1) <= 1 << 22);
  if (!good) throw new Refused("its description is damaged, or not written by kws");
  return about;
}

/** A model that any number of streams share. */
export class Spotter {
  /** @param ort ONNX Runtime; @param {Uint8Array} bytes the file; throws Refused */
  static async open(ort, bytes) {
    const spotter = new Spotter();
    spotter.about = describe(bytes);
    spotter.ort = ort;
    try {
      spotter.session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], logSeverityLevel: 4 });
      const trial = await new Stream(spotter, spotter.about.sample_rate).step();
      if (!trial.flat().every(Number.isFinite)) throw new Error("its scores of silence are no numbers");
    } catch (error) {
      throw new Refused(`it does not run: ${String(error?.message ?? error).split("\n")[0].slice(0, 200)}`);
    }
    return spotter;
  }
}

/** One stream through a spotter: samples in, scores and detections out. */
export class Stream {
  /** @param {number} rate Hz of the samples that will be fed */
  constructor(spotter, rate) {
    const { about } = spotter;
    this.spotter = spotter;
    // the first step ends where its last frame ends
    this.decision = new Decision(about.labels, about.step_ms, about.offset_ms, about.decision);
    this.resampler = rate === about.sample_rate ? null : new Resampler(rate, about.sample_rate);
    this.room = new Float32Array(about.chunk);
    this.reset();
  }

  reset() {
    const { about, ort } = this.spotter;
    this.filled = -about.overlap; // a stream's first samples are the past of its first chunk
    this.state = {};
    for (const [name, shape] of Object.entries(about.state)) {
      this.state[name] = new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
    }
    this.decision.reset();
    this.resampler?.reset();
  }

  /** The scores of the chunk in `room`, a row a step. */
  async step() {
    const { about, ort, session } = this.spotter;
    const samples = new ort.Tensor("float32", this.room, [1, about.chunk]);
    const out = await session.run({ samples, ...this.state });
    for (const name in this.state) this.state[name] = out[`next_${name}`];
    const rows = Array.from(out.probabilities.data);
    return Array.from({ length: about.steps }, (_, i) => rows.slice(i * about.labels.length, (i + 1) * about.labels.length));
  }

  /**
   * The next samples, in int16 units, to [{time, scores, smoothed, found}], one a step: seconds of the stream, scores
   * and their means by label, and a detection or null. After `flush` another stream begins.
   */
  async push(samples, flush = false) {
    const steps = [];
    let rest = this.resampler ? this.resampler.push(samples, flush) : samples;
    if (this.filled < 0) {
      const past = this.state.past.data;
      const head = rest.subarray(0, Math.min(rest.length, -this.filled));
      past.set(head, past.length + this.filled);
      this.filled += head.length;
      rest = rest.subarray(head.length);
    }
    while (this.filled >= 0 && rest.length >= this.room.length - this.filled) {
      const head = rest.subarray(0, this.room.length - this.filled);
      this.room.set(head, this.filled);
      rest = rest.subarray(head.length);
      this.filled = 0;
      steps.push(...this.decide(await this.step()));
    }
    if (rest.length) {
      this.room.set(rest, this.filled);
      this.filled += rest.length;
    }
    if (flush) {
      const { about } = this.spotter;
      const whole = Math.floor((Math.max(this.filled, 0) * about.steps) / about.chunk);
      this.room.fill(0, Math.max(this.filled, 0)); // what comes after the last whole step changes nothing of it
      if (whole) steps.push(...this.decide((await this.step()).slice(0, whole)));
      this.reset();
    }
    return steps;
  }

  decide(rows) {
    return rows.map((scores) => {
      const found = this.decision.push(scores);
      return { time: this.decision.seconds(this.decision.step), scores, smoothed: this.decision.smoothed, found };
    });
  }
}
