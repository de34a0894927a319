// In the audio thread: gathers the microphone's samples and hands them to the worker, each block with the time of day.

const BLOCK = 1024; // samples: about 20 ms

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    this.port.onmessage = ({ data }) => (this.to = data.to);
  }

  process([[channel]]) {
    for (let at = 0; channel && at < channel.length; ) {
      const n = Math.min(BLOCK - this.filled, channel.length - at);
      this.block.set(channel.subarray(at, at + n), this.filled);
      this.filled += n;
      at += n;
      if (this.filled < BLOCK) break;
      this.to?.postMessage({ block: this.block, at: Date.now() }, [this.block.buffer]);
      this.block = new Float32Array(BLOCK);
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor("capture", Capture);
