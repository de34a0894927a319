// The scores of the last seconds, drawn.

const SECONDS = 10;
const COLOURS = 10;
const FAINT = 0.06; // a score that stays below it is drawn thin

/** The style variable of the nth word's colour. */
export const colour = (n) => `--c${n % COLOURS}`;

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.words = []; // {key, label, n, threshold, points: [{time, score}]}
    this.marks = []; // {time, label, n}
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Begins another time axis. */
  clear() {
    this.time = this.arrived = 0;
    this.marks = [];
    for (const word of this.words) word.points = [];
  }

  /** A step's means of one spotter's words, and what was found. */
  add(key, time, means, found) {
    const after = time - SECONDS - 1;
    this.words.filter((word) => word.key === key).forEach((word, i) => {
      word.points.push({ time, score: means[i] });
      while (word.points[0].time < after) word.points.shift();
    });
    if (found) this.marks.push(found);
    while (this.marks.length && this.marks[0].time < after) this.marks.shift();
    this.time = Math.max(this.time, time);
    this.arrived = performance.now();
  }

  /** @param {number} slack seconds that the axis may run ahead of the last score, for smooth motion */
  draw(slack = 0) {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    const style = getComputedStyle(document.documentElement);
    const get = (name) => style.getPropertyValue(name);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `12px ${getComputedStyle(canvas).fontFamily}`;
    const now = Math.max(this.time + Math.min(slack, (performance.now() - this.arrived) / 1000), 0);
    const [left, right, top, bottom] = [30, width - 14, 26, height - 24];
    const x = (time) => right - ((now - time) / SECONDS) * (right - left);
    const y = (score) => bottom - score * (bottom - top);
    const line = (x0, y0, x1, y1) => {
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
      pen.stroke();
    };

    pen.lineWidth = 1;
    pen.strokeStyle = get("--line");
    pen.fillStyle = get("--soft");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const score of [0, 0.25, 0.5, 0.75, 1]) {
      line(left, y(score), right, y(score));
      if (score % 0.5 === 0) pen.fillText(score === 0.5 ? "0.5" : String(score), left - 7, y(score));
    }
    pen.textBaseline = "top";
    for (let back = 0; back <= SECONDS; back += width < 400 ? 5 : 2) {
      pen.textAlign = back ? (back === SECONDS ? "left" : "center") : "right";
      pen.fillText(back ? `−${back} s` : "now", back === SECONDS ? left : x(now - back) + (back ? 0 : 4), bottom + 8);
    }

    pen.save();
    pen.beginPath();
    pen.rect(left, 0, right - left + 2, height);
    pen.clip();
    pen.lineJoin = "round";
    for (const { n, points } of this.words) {
      const shown = points.filter((point) => point.time >= now - SECONDS - 0.5);
      if (!shown.length) continue;
      const loud = shown.some((point) => point.score >= FAINT);
      pen.strokeStyle = pen.fillStyle = get(colour(n));
      pen.setLineDash(n % (2 * COLOURS) < COLOURS ? [] : [5, 3]);
      pen.lineWidth = loud ? 2.25 : 1;
      pen.beginPath();
      shown.forEach((point, i) => pen[i ? "lineTo" : "moveTo"](x(point.time), y(point.score)));
      pen.stroke();
      if (!loud) continue;
      pen.lineTo(x(shown.at(-1).time), y(0));
      pen.lineTo(x(shown[0].time), y(0));
      pen.globalAlpha = 0.12;
      pen.fill();
      pen.globalAlpha = 1;
    }
    pen.setLineDash([]);
    pen.restore();

    let free = -Infinity;
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    for (const { time, label, n } of this.marks) {
      const at = x(time);
      if (at < left) continue;
      pen.strokeStyle = pen.fillStyle = get(colour(n));
      pen.lineWidth = 1;
      line(at, top - 4, at, bottom);
      const half = pen.measureText(label).width / 2 + 8;
      const middle = Math.min(Math.max(at, left + half), right - half);
      if (middle - half < free) continue; // its line and its chip say it
      free = middle + half + 3;
      pen.beginPath();
      pen.roundRect(middle - half, 2, 2 * half, 19, 9.5);
      pen.fill();
      pen.fillStyle = get("--card");
      pen.fillText(label, middle, 12);
    }

    const limits = [...new Set(this.words.map((word) => word.threshold))];
    pen.textBaseline = "bottom";
    pen.textAlign = "left";
    pen.fillStyle = get("--ink");
    for (const limit of limits.slice(0, 4)) {
      pen.lineWidth = 1.5;
      pen.strokeStyle = get("--ink");
      pen.setLineDash([6, 5]);
      line(left, y(limit), right, y(limit));
      pen.setLineDash([]);
      const text = `threshold ${Number(limit.toFixed(2))}`;
      pen.lineWidth = 4;
      pen.strokeStyle = get("--card");
      pen.strokeText(text, left + 6, y(limit) - 3);
      pen.fillText(text, left + 6, y(limit) - 3);
    }
  }
}
