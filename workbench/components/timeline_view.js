// What of the trace is in view, and where on the canvas everything stands.

const LANE = 17;
const HEAD = 22;
const MAP = 40;
const RULER = 24;
const FOOT = 8;
const KEPT_FRAMES = 600;
const MOST_LABELS = 700;
const MOST_ARROWS = 40;

class TimelineView {
  // As high as the page allows, and no higher than the tracks are.
  fit() {
    const tracks = this.events?.tracks ?? [];
    const processes = new Set(tracks.map((each) => each.process)).size;
    const lanes = tracks.reduce((sum, each) => sum + each.lanes.length * LANE + FOOT, 0);
    const wanted = MAP + RULER + processes * HEAD + lanes + 4;
    this.height = tracks.length ? Math.min(this.most, Math.max(200, wanted)) : this.most;
    this.stage.style.height = `${this.height}px`;
    this.resize();
  }

  resize() {
    const width = this.stage.clientWidth;
    if (!width || !this.height) return;
    this.ratio = Math.max(1, window.devicePixelRatio || 1);
    this.width = width;
    this.gutter = Math.round(Math.min(210, Math.max(120, width * 0.17)));
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.canvas.style.height = `${this.height}px`;
    this.top = MAP + RULER;
    this.plotWidth = Math.max(10, Math.floor((width - this.gutter) * this.ratio));
    this.plotHeight = Math.max(10, Math.floor((this.height - this.top) * this.ratio));
    this.image = this.context.createImageData(this.plotWidth, this.plotHeight);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.map = null;
    this.arrange();
    this.later();
  }

  arrange() {
    if (!this.events) return;
    this.places = [];
    let y = 0;
    let process = null;
    for (const track of this.events.tracks) {
      if (track.process !== process) {
        process = track.process;
        this.places.push({ y, height: HEAD, process });
        y += HEAD;
      }
      const lanes = this.folded.has(track.index) ? track.lanes.slice(0, 1) : track.lanes;
      this.places.push({ y, height: lanes.length * LANE + FOOT, track, lanes });
      y += lanes.length * LANE + FOOT;
    }
    this.content = y;
    this.scroll = Math.max(0, Math.min(this.scroll, y - (this.height - this.top)));
  }

  get scale() {
    return this.plotWidth / (this.to - this.from);
  }

  timeAt(x) {
    return this.from + ((x - this.gutter) * this.ratio) / this.scale;
  }

  xOf(time) {
    return this.gutter + ((time - this.from) * this.scale) / this.ratio;
  }

  show(from, to) {
    if (!this.events) return;
    const { span } = this.events;
    const least = Math.min(span, 20);
    const wide = Math.max(least, Math.min(span * 1.02, to - from));
    const middle = (from + to) / 2;
    const margin = span * 0.01;
    this.from = Math.max(-margin, Math.min(middle - wide / 2, span + margin - wide));
    this.to = this.from + wide;
    this.later();
  }

  zoom(factor, x = this.gutter + (this.width - this.gutter) / 2) {
    if (!this.events) return;
    const at = this.timeAt(x);
    const share = (at - this.from) / (this.to - this.from);
    const wide = Math.max(Math.min(20, this.events.span), (this.to - this.from) * factor);
    this.show(at - share * wide, at - share * wide + wide);
  }

  move(part) {
    if (!this.events) return;
    const wide = (this.to - this.from) * part;
    this.show(this.from + wide, this.to + wide);
  }

  scrollBy(y) {
    const most = Math.max(0, this.content - (this.height - this.top));
    const next = Math.max(0, Math.min(most, this.scroll + y));
    const moved = next !== this.scroll;
    this.scroll = next;
    if (moved) this.later();
    return moved;
  }

  placeOf(row) {
    const lane = this.events.laneOf(row);
    const place = this.places.find((each) => each.track?.index === lane.track);
    if (!place) return null;
    const depth = Math.min(lane.depth, place.lanes.length - 1);
    return { y: this.top + place.y + depth * LANE - this.scroll, lane };
  }

  // What lies under a point: the place, and the event where there is one.
  under(x, y) {
    if (!this.events || y < this.top || x < this.gutter) return { row: -1 };
    const at = y - this.top + this.scroll;
    const place = this.places.find((each) => at >= each.y && at < each.y + each.height);
    const lane = place?.lanes?.[Math.floor((at - place.y) / LANE)];
    if (!lane) return { row: -1, place };
    const time = this.timeAt(x);
    const row = this.events.near(lane, time, (2 * this.ratio) / this.scale);
    return { row, place, lane };
  }

  frame(row) {
    const margin = Math.max(10, this.events.duration[row] * 0.12);
    this.show(this.events.start[row] - margin, this.events.end(row) + margin);
  }

  // Brings an event into sight, near enough to be seen.
  seek(row) {
    const { start, duration } = this.events;
    const lane = this.events.laneOf(row);
    this.folded.delete(lane.track);
    this.arrange();
    const place = this.placeOf(row);
    if (place.y < this.top + LANE || place.y > this.height - 2 * LANE) {
      this.scrollBy(place.y - (this.top + this.height) / 2);
    }
    const wide = this.to - this.from;
    const tooSmall = duration[row] * this.scale < 3;
    if (tooSmall) {
      const next = Math.max(20, Math.min(wide, (duration[row] + 1) * 60));
      this.show(start[row] - next * 0.45, start[row] + next * 0.55);
    } else if (start[row] < this.from || start[row] > this.to) {
      this.show(start[row] - wide * 0.3, start[row] + wide * 0.7);
    }
  }

  later() {
    if (this.due || this.gone) return;
    this.due = true;
    requestAnimationFrame((now) => {
      this.due = false;
      if (this.gone || !this.events || !this.pixels) return;
      if (this.lastFrame && now - this.lastFrame < 250) this.note(this.gaps, now - this.lastFrame);
      this.lastFrame = now;
      this.draw();
    });
  }

  note(kept, value) {
    kept.push(value);
    if (kept.length > KEPT_FRAMES) kept.shift();
  }
}
