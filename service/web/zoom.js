// Several frames that show the same part of their pictures: one zoom for all, moved by dragging in any of them.

const MOST = 32;

export class Zoom {
  constructor(changed) {
    this.changed = changed;
    this.contents = [];
    this.reset();
  }

  reset() {
    [this.times, this.x, this.y] = [1, 0, 0]; // x and y: the middle of what is seen, from that of the picture, in its size
    this.apply();
  }

  /** From now on show these alike. */
  over(contents) {
    this.contents = contents;
    this.apply();
  }

  listen(frame) {
    frame.addEventListener("pointerdown", (event) => this.drag(frame, event));
    frame.addEventListener("dblclick", (event) => this.at(frame, event, this.times > 1 ? 1 / this.times : 4));
    frame.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return; // as a pinch on a touchpad reads too; a plain wheel scrolls
        event.preventDefault();
        this.at(frame, event, event.deltaY < 0 ? 1.25 : 0.8);
      },
      { passive: false },
    );
  }

  /** Zoom so that what is under the pointer stays there. */
  at(frame, event, factor) {
    const box = frame.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
    const before = this.times;
    this.times = Math.max(1, Math.min(MOST, before * factor));
    this.x += x / before - x / this.times;
    this.y += y / before - y / this.times;
    this.apply();
  }

  by(factor) {
    this.times = Math.max(1, Math.min(MOST, this.times * factor));
    this.apply();
  }

  drag(frame, down) {
    if (this.times === 1 || down.button !== 0) return;
    down.preventDefault();
    frame.setPointerCapture(down.pointerId);
    const move = (event) => {
      this.x -= event.movementX / frame.clientWidth / this.times;
      this.y -= event.movementY / frame.clientHeight / this.times;
      this.apply();
    };
    frame.addEventListener("pointermove", move);
    frame.addEventListener("lostpointercapture", () => frame.removeEventListener("pointermove", move), { once: true });
  }

  apply() {
    const most = 0.5 - 0.5 / this.times;
    this.x = Math.max(-most, Math.min(most, this.x));
    this.y = Math.max(-most, Math.min(most, this.y));
    const [x, y] = [-100 * this.x * this.times, -100 * this.y * this.times];
    for (const content of this.contents) {
      content.style.transform = `translate(${x}%, ${y}%) scale(${this.times})`;
      content.parentElement.classList.toggle("zoomed", this.times > 1);
    }
    this.changed(this.times);
  }
}
