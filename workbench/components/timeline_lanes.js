// Events as pixels: one line of pixels a lane, whatever the number of its events.

class TimelineLanes extends TimelineView {
  // One lane: a line of pixels, then copied to the height of the lane.
  lane(lane, top, bottom, labelY, marked) {
    const { plotWidth } = this;
    const base = top * plotWidth;
    const [fills, inks] = !marked ? [this.full, this.inks]
      : marked === this.hits ? [this.dim, null] : [this.soft, this.softInks];
    this.rows(null, lane.first, lane.last, base, fills, inks, labelY);
    if (marked) {
      const index = this.events.lanes.indexOf(lane);
      const [first, last] = [marked.bounds[index], marked.bounds[index + 1]];
      if (last > first) this.rows(marked.rows, first, last, base, this.full, this.inks, labelY);
    }
    for (let y = top + 1; y < bottom; y++) {
      this.pixels.copyWithin(y * plotWidth, base, base + plotWidth);
    }
  }

  // Events in the order of their starts onto one line. What is narrower than a pixel is merged:
  // its colour is that of the longest of a few, as strong as the pixel is covered.
  rows(rows, first, last, base, fills, inks, labelY) {
    const { pixels, plotWidth, from, to, scale } = this;
    const { start, duration, sums, name } = this.events;
    const isMarked = rows !== null;
    const startOf = isMarked ? (place) => start[rows[place]] : (place) => start[place];
    const wanted = 30 * this.ratio;
    let place = this.firstAt(rows, first, last, from);
    while (place < last) {
      const row = isMarked ? rows[place] : place;
      const begins = start[row];
      if (begins >= to) break;
      const x = (begins - from) * scale;
      const wide = duration[row] * scale;
      if (wide >= 1) {
        const left = x > 0 ? Math.floor(x) : 0;
        let right = Math.min(plotWidth, Math.floor(x + wide));
        if (right <= left) right = Math.min(plotWidth, left + 1);
        // A line of background keeps neighbours apart.
        const edge = right - left >= 3 && right < plotWidth ? right - 1 : right;
        pixels.fill(fills[name[row]], base + left, base + edge);
        const isTwice = !isMarked && name[row] === this.sameCode;
        if (inks && !isTwice && right - left > wanted && this.labels.length < 5 * MOST_LABELS) {
          this.labels.push(row, left / this.ratio, right / this.ratio, labelY, inks[name[row]]);
        }
        place++;
        continue;
      }
      const pixel = x > 0 ? Math.floor(x) : 0;
      let next = this.gallop(startOf, place + 1, last, from + (pixel + 1) / scale);
      // The last one that begins in this pixel may reach beyond it.
      if (next - 1 > place && duration[isMarked ? rows[next - 1] : next - 1] * scale >= 1) next--;
      let best = row;
      const stride = Math.max(1, (next - place) >> 3);
      for (let each = place + stride; each < next; each += stride) {
        const other = isMarked ? rows[each] : each;
        if (duration[other] > duration[best]) best = other;
      }
      const covered = isMarked ? 1 : Math.min(1, (sums[next] - sums[place]) * scale);
      if (pixel < plotWidth) {
        pixels[base + pixel] = this.blended(fills[name[best]], pixels[base + pixel], 0.3 + 0.7 * covered);
        if (isMarked && pixel + 1 < plotWidth) pixels[base + pixel + 1] = fills[name[best]];
      }
      place = next;
    }
  }

  // The first event that ends after a time.
  firstAt(rows, first, last, time) {
    const { start, duration } = this.events;
    let [low, high] = [first, last];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (start[rows ? rows[middle] : middle] < time) low = middle + 1;
      else high = middle;
    }
    if (low > first) {
      const row = rows ? rows[low - 1] : low - 1;
      if (start[row] + duration[row] > time) return low - 1;
    }
    return low;
  }

  // The first place from `first` on that starts at or after a time, by steps that double.
  gallop(startOf, first, last, time) {
    let step = 1;
    let low = first;
    let high = first;
    while (high < last && startOf(high) < time) {
      low = high + 1;
      high += step;
      step *= 2;
    }
    if (high > last) high = last;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (startOf(middle) < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  blended(top, under, share) {
    const part = (share * 256) | 0;
    const rest = 256 - part;
    const evens = (((top & 0xff00ff) * part + (under & 0xff00ff) * rest) >>> 8) & 0xff00ff;
    const odds = ((((top >>> 8) & 0xff) * part + ((under >>> 8) & 0xff) * rest) >>> 8) << 8;
    return (0xff000000 | evens | odds) >>> 0;
  }

  words() {
    const { context, labels, events } = this;
    context.save();
    context.beginPath();
    context.rect(this.gutter, this.top, this.width - this.gutter, this.height - this.top);
    context.clip();
    context.font = `11px ${this.theme.font}`;
    context.textBaseline = "middle";
    this.cutter ??= new Cutter(context);
    let ink = null;
    for (let at = 0; at < labels.length; at += 5) {
      const [row, left, right, y] = [labels[at], labels[at + 1], labels[at + 2], labels[at + 3]];
      const text = this.cutter.cut(events.nameOf(row), right - left - 9);
      if (!text) continue;
      const wanted = labels[at + 4];
      if (wanted !== ink) context.fillStyle = ink = wanted;
      context.fillText(text, this.gutter + left + 4, this.top + y - this.scroll + LANE / 2);
    }
    context.restore();
  }
}
