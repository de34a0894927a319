// Scores to detections: kws/decision.py, step by step, with the same bits. Pages and tests hold one against the other.

const REST = "_default_"; // the key of the other words' threshold
const DEFAULTS = { threshold: 0.7, release: 0.6, smoothing_ms: 200, refractory_ms: 700, warm_up_ms: 500 };

/** Python's round: halves go to the even number. */
export function round(x) {
  const below = Math.floor(x);
  const half = x - below;
  return half > 0.5 || (half === 0.5 && below % 2) ? below + 1 : below;
}

export class Decision {
  /**
   * @param {string[]} labels names of the scores; those that begin with "_" are never detected
   * @param {number} stepMs from one score to the next
   * @param {number} offsetMs the first step ends this much later than a step after the stream's start
   * @param {object} options threshold (one, or by word), release, smoothing_ms, refractory_ms, warm_up_ms
   */
  constructor(labels, stepMs, offsetMs = 0, options = {}) {
    const { threshold, release, smoothing_ms, refractory_ms, warm_up_ms } = { ...DEFAULTS, ...options };
    this.words = labels.map((_, i) => i).filter((i) => !labels[i].startsWith("_"));
    if (!this.words.length) throw new Error("it knows no word");
    const limits = new Map(threshold && typeof threshold === "object" ? Object.entries(threshold) : [[REST, threshold]]);
    const known = [REST, ...this.words.map((i) => labels[i])];
    for (const [name, value] of Object.entries(options)) {
      if (!Object.hasOwn(DEFAULTS, name)) throw new Error(`its decision has a strange “${name}”`);
      if (name !== "threshold" && !Number.isFinite(value)) throw new Error(`its decision's “${name}” is no number`);
    }
    for (const [word, limit] of limits) {
      if (!known.includes(word) || !(limit > 0)) throw new Error(`its decision has a strange threshold of “${word}”`);
    }
    this.labels = labels;
    this.stepMs = stepMs;
    this.offsetMs = offsetMs;
    this.threshold = labels.map((label) => limits.get(label) ?? limits.get(REST) ?? DEFAULTS.threshold);
    this.release = this.threshold.map((limit) => release * limit);
    this.floor = this.release.map((limit) => 0.5 * limit); // below it nothing is being said
    this.smoothing = Math.max(1, round(smoothing_ms / stepMs));
    this.refractory = round(refractory_ms / stepMs);
    this.warmUp = round(warm_up_ms / stepMs);
    this.reset();
  }

  reset() {
    this.step = 0;
    this.quietUntil = this.warmUp;
    this.active = this.labels.map(() => false);
    this.risen = this.labels.map(() => 0); // step at which each score last left its floor
    this.recent = []; // the last scores, oldest first
    this.smoothed = this.labels.map(() => 0);
  }

  /** The next step's scores, one a label, to the detection that they complete, or null. Times in seconds. */
  push(scores) {
    this.step += 1;
    this.recent.push(scores);
    if (this.recent.length > this.smoothing) this.recent.shift();
    const count = this.recent.length;
    this.smoothed = this.labels.map((_, i) => {
      let total = 0;
      for (const row of this.recent) total += row[i];
      return total / count;
    });
    for (const i of this.words) {
      if (this.smoothed[i] < this.release[i]) this.active[i] = false;
      if (this.smoothed[i] < this.floor[i]) this.risen[i] = this.step;
    }
    if (this.step < this.quietUntil) return null;
    let word = this.words[0];
    for (const i of this.words) if (this.smoothed[i] > this.smoothed[word]) word = i;
    if (!(this.smoothed[word] >= this.threshold[word]) || this.active[word]) return null;
    this.active[word] = true;
    this.quietUntil = this.step + this.refractory;
    const limit = this.threshold[word];
    const window = this.recent.map((row) => row[word]);
    return {
      word: this.labels[word], start: this.seconds(this.risen[word]), end: this.seconds(this.step), score: this.smoothed[word],
      peak: Math.max(...window), threshold: limit, steps_above: window.filter((score) => score >= limit).length,
    };
  }

  /** The moment at which a step ends, in seconds of the stream. */
  seconds(step) {
    return step * (this.stepMs / 1000) + this.offsetMs / 1000;
  }
}
