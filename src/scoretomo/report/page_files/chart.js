// Charts as SVG: lines with a reading at the pointer, and points that can be clicked.

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Round numbers that divide a range into about `count` parts; powers of ten on a logarithmic axis. */
function ticks(low, high, count, logarithmic) {
  if (logarithmic) {
    const powers = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const factor of Math.log10(high / low) < 1.6 ? [1, 2, 5] : [1]) powers.push(factor * 10 ** power);
    }
    return powers.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 2.5, 5, 10].find((factor) => factor * unit >= raw * 0.999));
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9 * step; value += step) found.push(Math.abs(value) < 1e-9 * step ? 0 : value);
  return found;
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)} k`;
  return size < 1e-3 ? value.toExponential(0) : String(+value.toPrecision(3));
}

const redrawn = new Map();
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const [act, width] = redrawn.get(target);
    if (target.clientWidth && Math.abs(target.clientWidth - width) > 4) act();
  }
});

/** Draw a chart now, and again whenever its place gets another width: text keeps its size. */
function inWidth(holder, act) {
  const again = () => { redrawn.set(holder, [again, holder.clientWidth]); act(); };
  again();
  widths.observe(holder);
}

/** Axes, grid and names as wide as their place; x and y of the result take values to pixels. */
function frame(holder, { height = 330, x, y, left = 54, bottom = 44 }) {
  const width = holder.clientWidth || 600;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const [top, right] = [12, 14];
  const toX = scaleOf(x, left, width - right);
  const toY = scaleOf(y, height - bottom, top);
  const words = x.words ?? short, heights = y.words ?? short;
  for (const value of x.ticks ?? ticks(...x.range, Math.max(3, width / 120), x.logarithmic)) {
    svg.append(draw("line", { class: "grid", x1: toX(value), x2: toX(value), y1: top, y2: height - bottom }));
    svg.append(draw("text", { x: toX(value), y: height - bottom + 17, "text-anchor": "middle" }, words(value)));
  }
  for (const value of y.hidden ? [] : y.ticks ?? ticks(...y.range, Math.max(2, height / 70), y.logarithmic)) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: toY(value), y2: toY(value) }));
    svg.append(draw("text", { x: left - 8, y: toY(value) + 4, "text-anchor": "end" }, heights(value)));
  }
  svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  svg.append(draw("text", { class: "name", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, x.name));
  if (y.name) {
    const middle = (top + height - bottom) / 2;
    svg.append(draw("text", { class: "name", x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, y.name));
  }
  holder.replaceChildren(svg);
  return { svg, x: toX, y: toY, left, right: width - right, top, bottom: height - bottom };
}

function scaleOf({ range: [low, high], logarithmic }, from, to) {
  if (!logarithmic) return (value) => from + ((value - low) / (high - low)) * (to - from);
  return (value) => from + (Math.log(Math.max(value, low * 1e-3) / low) / Math.log(high / low)) * (to - from);
}

/**
 * Curves {name, x, y, colour, dashed, faint} in a frame; `marks` are levels with words.
 * Moving the pointer reads the curves that have a name.
 */
function lineChart(holder, chart) {
  inWidth(holder, () => drawLines(holder, chart));
}

function drawLines(holder, { curves, x, y, marks = [], height }) {
  const area = frame(holder, { x, y, height });
  for (const { level, words } of marks) {
    area.svg.append(draw("line", { class: "mark", x1: area.left, x2: area.right, y1: area.y(level), y2: area.y(level) }));
    area.svg.append(draw("text", { x: area.right - 4, y: area.y(level) - 5, "text-anchor": "end" }, words));
  }
  for (const curve of curves) {
    const points = curve.x.map((value, i) => [value, curve.y[i]]).filter(([, value]) => value !== null && Number.isFinite(value));
    area.svg.append(draw("path", {
      d: points.map(([a, b], i) => `${i ? "L" : "M"}${area.x(a).toFixed(1)} ${area.y(b).toFixed(1)}`).join(""),
      fill: "none", stroke: curve.colour, "stroke-width": curve.faint ? 1 : 2.2, "stroke-linejoin": "round",
      "stroke-opacity": curve.faint ? 0.35 : 1, "stroke-dasharray": curve.dashed ? "6 4" : null,
    }));
  }
  readings(area, curves.filter((curve) => curve.name), x, y);
  const named = curves.filter((curve) => curve.name);
  if (named.length > 1) {
    holder.append(make("div", { class: "legend" }, named.map((curve) => make("span", {}, swatch(curve.colour), curve.name))));
  }
}

function readings(area, curves, x, y) {
  if (!curves.length) return;
  const hair = draw("line", { class: "crosshair", y1: area.top, y2: area.bottom, visibility: "hidden" });
  area.svg.append(hair);
  area.svg.addEventListener("pointermove", (event) => {
    const box = area.svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * area.svg.viewBox.baseVal.width;
    const grid = curves[0].x;
    let nearest = 0;
    grid.forEach((value, i) => { if (Math.abs(area.x(value) - at) < Math.abs(area.x(grid[nearest]) - at)) nearest = i; });
    const place = area.x(grid[nearest]);
    hair.setAttribute("x1", place);
    hair.setAttribute("x2", place);
    hair.setAttribute("visibility", "visible");
    const read = curves.map((curve) => [curve.name, curve.y[nearest]]).filter(([, value]) => value !== null && value !== undefined);
    tip.show([(x.reading ?? short)(grid[nearest]), ...read.map(([name, value]) => `${name}: ${(y.reading ?? short)(value)}`)].join("\n"), event);
  });
  area.svg.addEventListener("pointerleave", () => { hair.setAttribute("visibility", "hidden"); tip.hide(); });
}

/** Points {x, y, colour, index, trusted, words} that say who they are, and call `act(index)` when clicked. */
function pointChart(holder, { points, x, y, height, radius = 6, act }) {
  const area = frame(holder, { x, y, height });
  // those to trust lie on top
  for (const point of [...points].sort((a, b) => a.trusted - b.trusted)) {
    const [px, py] = [area.x(point.x), area.y(point.y)];
    const mark = draw(point.trusted ? "circle" : "path", {
      class: `point ${point.trusted ? "" : "untrusted"}`, "data-index": point.index, tabindex: 0, role: "button", "aria-label": point.words,
      ...(point.trusted ? { cx: px, cy: py, r: radius, fill: point.colour }
        : { d: `M${px - 4} ${py - 4}l8 8m0 -8l-8 8`, style: `stroke:${point.colour}`, "pointer-events": "all" }),
    });
    mark.addEventListener("click", () => act(point.index));
    mark.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(point.index); } });
    mark.addEventListener("pointermove", (event) => tip.show(point.words, event));
    mark.addEventListener("pointerleave", tip.hide);
    area.svg.append(mark);
  }
  return area;
}

/** A range that holds all values, with some air. */
function around(values, air = 0.08) {
  const low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low || 1) * air;
  return [low - margin, high + margin];
}

/** Bars {value, colour, words, index} that call `act(index)` when clicked, if it is given. */
function barChart(holder, { bars, x, y, height = 260, width: wide = 0.6, act = null }) {
  const area = frame(holder, { height, x, y });
  const width = area.x(wide) - area.x(0);
  for (const { value, at, colour = "var(--accent)", words = null, index = null } of bars) {
    const bar = draw("rect", {
      class: act ? "bar-of" : null, "data-index": index, x: area.x(at) - width / 2, width,
      y: area.y(value), height: area.bottom - area.y(value), rx: Math.min(3, width / 4), fill: colour, "fill-opacity": 0.75,
    });
    if (act) bar.addEventListener("click", () => act(index));
    if (words) bar.addEventListener("pointermove", (event) => tip.show(words, event));
    if (words) bar.addEventListener("pointerleave", tip.hide);
    area.svg.append(bar);
  }
  return area;
}

const RAMP = ["#3b4cc0", "#6f92f3", "#aac7fd", "#dddcdc", "#f7b799", "#e26952", "#b40426"];

function rampColour(part) {
  const at = Math.min(Math.max(part, 0), 1) * (RAMP.length - 1);
  const i = Math.min(Math.floor(at), RAMP.length - 2);
  const [a, b] = [rgb(RAMP[i]), rgb(RAMP[i + 1])];
  return `rgb(${a.map((value, k) => Math.round(255 * (value + (at - i) * (b[k] - value)))).join(" ")})`;
}
