// Band-limited resampling of a stream: kws/resampling.py, which says how and why. Browsers differ in the rates that they
// give a page and in how they convert them; this is what kws.runtime does with the same sound.

const ZEROS = 24;
const ROLLOFF = 0.95;
const BETA = 9;
const MAX_TABLE = 1 << 22;

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

/** Modified Bessel function of order 0: its power series, which converges for any argument. */
function bessel(x) {
  let sum = 1;
  for (let term = 1, k = 1; term > 1e-17 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

export class Resampler {
  /** @param {number} from, to Hz, whole numbers */
  constructor(from, to) {
    const common = divisor(from, to);
    this.up = to / common;
    this.down = from / common;
    const cutoff = ROLLOFF * Math.min(1, this.up / this.down);
    this.half = Math.ceil(ZEROS / cutoff);
    if (!(2 * this.half * this.up <= MAX_TABLE)) throw new Error(`${from} to ${to} Hz is no simple ratio`);
    this.table = [];
    for (let i = 0; i < this.up; i++) {
      const phase = ((i * this.down) % this.up) / this.up;
      this.table.push(Float64Array.from({ length: 2 * this.half }, (_, j) => {
        const t = j - this.half + 1 - phase;
        const x = Math.PI * cutoff * t;
        const window = bessel(BETA * Math.sqrt(Math.max(1 - (t / this.half) ** 2, 0))) / bessel(BETA);
        return cutoff * (x ? Math.sin(x) / x : 1) * window;
      }));
    }
    this.reset();
  }

  reset() {
    this.buffer = new Float64Array(this.half - 1); // the past of zeros
    this.first = -(this.half - 1); // the index of the buffer's first sample
    this.nIn = this.nOut = 0;
  }

  /** The next samples to those at the other rate that they determine; `flush` ends the stream. */
  push(samples, flush = false) {
    const kept = this.buffer;
    this.buffer = new Float64Array(kept.length + samples.length + (flush ? this.half : 0));
    this.buffer.set(kept);
    this.buffer.set(samples, kept.length);
    this.nIn += samples.length;
    const ready = Math.ceil(((flush ? this.nIn : this.nIn - this.half) * this.up) / this.down);
    const out = new Float32Array(Math.max(ready - this.nOut, 0));
    for (let n = 0; n < out.length; n++) {
      const at = (this.nOut + n) * this.down;
      const taps = this.table[(this.nOut + n) % this.up];
      const begin = Math.floor(at / this.up) - this.half + 1 - this.first;
      let sum = 0;
      for (let j = 0; j < taps.length; j++) sum += this.buffer[begin + j] * taps[j];
      out[n] = sum;
    }
    this.nOut += out.length;
    const past = Math.max(Math.floor((this.nOut * this.down) / this.up) - this.half + 1 - this.first, 0);
    this.buffer = this.buffer.slice(past);
    this.first += past;
    if (flush) this.reset();
    return out;
  }
}
