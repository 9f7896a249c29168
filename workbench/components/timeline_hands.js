// What the person does with pointer, wheel and keys.

class TimelineHands extends TimelineMarks {
  listen() {
    const { stage } = this;
    const point = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.left - 1, event.clientY - box.top - 1];
    };
    stage.addEventListener("wheel", (event) => this.wheel(event, ...point(event)), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.pressed(event, ...point(event)));
    stage.addEventListener("pointermove", (event) => this.drag(event, ...point(event)));
    stage.addEventListener("pointerup", (event) => this.release(event, ...point(event)));
    stage.addEventListener("pointercancel", () => { this.press = null; });
    stage.addEventListener("pointerleave", () => this.hoverOver(-1));
    stage.addEventListener("dblclick", (event) => this.double(...point(event)));
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("keyup", (event) => this.held.delete(event.key.toLowerCase()));
    this.body.addEventListener("focusout", () => this.held.clear());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.step(!event.shiftKey);
      if (event.key === "Escape") {
        this.search.value = "";
        this.searched();
        stage.focus();
      }
      event.stopPropagation();
    });
    this.observer = new ResizeObserver(() => {
      if (stage.clientWidth && stage.clientWidth !== this.width) this.resize();
    });
    this.observer.observe(stage);
  }

  wheel(event, x, y) {
    const scale = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
    const [across, down] = [event.deltaX * scale, event.deltaY * scale];
    // A page that scrolls must not be caught by a picture that it passes.
    const isMeant = this.root.getRootNode().activeElement === this.stage || event.ctrlKey || event.metaKey;
    if (!isMeant || !this.events) {
      this.remind();
      return;
    }
    if (x < this.gutter && y > this.top) {
      if (this.scrollBy(down)) event.preventDefault();
      return;
    }
    event.preventDefault();
    if (event.shiftKey) this.move((across || down) / 600);
    else if (Math.abs(across) > Math.abs(down)) this.move(across / 600);
    else this.zoom(Math.exp(Math.max(-300, Math.min(300, down)) * 0.0022), Math.max(x, this.gutter));
  }

  remind() {
    this.hint.classList.add("on");
    clearTimeout(this.reminding);
    this.reminding = setTimeout(() => this.hint.classList.remove("on"), 1400);
  }

  pressed(event, x, y) {
    if (event.button !== 0 || !this.events) return;
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    const kind = y < MAP ? "map" : x < this.gutter ? "names"
      : y < this.top || event.shiftKey ? "range" : "move";
    this.press = { kind, x, y, from: this.from, to: this.to, scroll: this.scroll, moved: false };
    if (kind === "map") this.toMap(x);
  }

  toMap(x) {
    const wide = this.to - this.from;
    const middle = ((x - this.gutter) / (this.width - this.gutter)) * this.events.span;
    this.show(middle - wide / 2, middle + wide / 2);
  }

  drag(event, x, y) {
    const { press } = this;
    if (!press) {
      const found = this.under(x, y);
      this.hoverOver(found.row, x, y);
      this.stage.style.cursor = y < MAP ? "ew-resize" : x < this.gutter ? "pointer" : y < this.top ? "text"
        : found.row >= 0 ? "pointer" : "grab";
      return;
    }
    press.moved ||= Math.abs(x - press.x) + Math.abs(y - press.y) > 3;
    if (!press.moved) return;
    this.tip.hidden = true;
    if (press.kind === "map") this.toMap(x);
    if (press.kind === "move") {
      this.stage.style.cursor = "grabbing";
      const wide = press.to - press.from;
      const by = ((press.x - x) * this.ratio * wide) / this.plotWidth;
      this.scroll = Math.max(0, Math.min(press.scroll + press.y - y, this.content - (this.height - this.top)));
      this.scroll = Math.max(0, this.scroll);
      this.show(press.from + by, press.to + by);
    }
    if (press.kind === "names") {
      this.scroll = press.scroll;
      this.scrollBy(press.y - y);
      this.later();
    }
    if (press.kind === "range") {
      const ends = [press.x, Math.max(this.gutter, x)].map((each) => this.timeAt(each));
      this.range = [Math.max(0, Math.min(...ends)), Math.min(this.events.span, Math.max(...ends))];
      this.later();
    }
  }

  release(event, x, y) {
    const { press } = this;
    this.press = null;
    if (!press) return;
    if (press.kind === "range" && press.moved) {
      this.tell();
      return;
    }
    if (press.moved || press.kind === "map") return;
    const found = this.under(x, y);
    if (press.kind === "names") {
      const at = y - this.top + this.scroll;
      const place = this.places.find((each) => at >= each.y && at < each.y + each.height);
      if (place?.track) this.fold(place.track.index);
      return;
    }
    if (found.row >= 0) this.choose(found.row, { tell: true });
    else this.let();
  }

  fold(track) {
    if (this.folded.has(track)) this.folded.delete(track);
    else this.folded.add(track);
    this.arrange();
    this.later();
  }

  double(x, y) {
    const { row } = this.under(x, y);
    if (row >= 0) this.frame(row);
    else if (y > MAP) this.show(0, this.events?.span ?? 1);
  }

  hoverOver(row, x, y) {
    if (row !== this.hover) {
      this.hover = row;
      if (row >= 0) this.fillTip(row);
      this.later();
    }
    this.tip.hidden = row < 0;
    if (row >= 0) placeTip(this.tip, this.stage, x, y);
  }

  key(event) {
    if (!this.events || event.ctrlKey || event.metaKey || event.altKey) return;
    const isControl = event.target.tagName === "SELECT" || (event.target.tagName === "BUTTON" && event.key === "Enter");
    if (isControl) return;
    const key = event.key.toLowerCase();
    if ("wasd".includes(key) && key.length === 1) {
      if (!this.held.size) this.run();
      this.held.add(key);
    } else if (!this.command(event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  command(key, shift) {
    const { events, row } = this;
    const lane = row >= 0 ? events.laneOf(row) : null;
    const go = (next) => { if (next >= 0) this.choose(next, { seek: true, tell: false }); };
    const acts = {
      ArrowLeft: () => (lane ? go(row > lane.first ? row - 1 : -1) : this.move(-0.2)),
      ArrowRight: () => (lane ? go(row + 1 < lane.last ? row + 1 : -1) : this.move(0.2)),
      ArrowUp: () => (lane ? go(events.parent(row)) : this.scrollBy(-3 * LANE)),
      ArrowDown: () => {
        if (!lane) return this.scrollBy(3 * LANE);
        const [first, last] = events.inside(row);
        return go(last > first ? first : -1);
      },
      PageUp: () => this.scrollBy(-this.height / 2),
      PageDown: () => this.scrollBy(this.height / 2),
      Enter: () => { if (row >= 0) this.announce(row); },
      f: () => {
        if (this.range) this.show(...this.range);
        else if (row >= 0) this.frame(row);
      },
      0: () => this.show(0, events.span),
      "/": () => this.search.focus(),
      "?": () => this.toggleKeys(),
      n: () => this.step(!shift),
      Escape: () => this.let(true),
    };
    const act = acts[key.length === 1 ? key.toLowerCase() : key];
    act?.();
    return act !== undefined;
  }

  // Keys that are held move on with every frame.
  run() {
    let before = performance.now();
    const move = (now) => {
      if (!this.held.size || this.gone) return;
      const part = Math.min(60, Math.max(8, now - before)) / 1000;
      before = now;
      const along = (this.held.has("d") ? 1 : 0) - (this.held.has("a") ? 1 : 0);
      const into = (this.held.has("s") ? 1 : 0) - (this.held.has("w") ? 1 : 0);
      if (along) this.move(along * part * 0.9);
      if (into) this.zoom(Math.exp(into * part * 2.4), this.hover >= 0 ? this.xOf(this.events.start[this.hover]) : undefined);
      requestAnimationFrame(move);
    };
    requestAnimationFrame(move);
  }
}
