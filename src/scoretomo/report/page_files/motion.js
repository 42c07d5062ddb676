// The motion: the average deformed along a component, or a series of volumes between two states.

async function startMotion() {
  const { motion } = page;
  const { ways } = motion;
  const scene = new Scene(byId("motion-scene"));
  const [mean, variance] = await Promise.all([motion.mean, motion.variance].map((name) => (name ? fieldOf(name) : null)));
  byId("colour-variable").hidden = !variance;
  const level = byId("motion-level");
  const along = byId("along");
  let way = null;
  let series = [];

  const paint = onceAFrame(() => {
    if (!way) return;
    const place = +along.value;
    const field = way.density ? sum(mean, place, series[0]) : between(series, partOf(way, place) * (series.length - 1));
    // the motion model lies in the frame of the consensus, and not in that of the variance
    const coloured = variance && !way.name.startsWith("z_") && byId("variable").checked;
    scene.show(field, { colour: "#7fa6d8", second: coloured ? variance : null, most: coloured ? 0.6 * variance.peak : 1 });
    byId("along-value").textContent = way.axis === "standard deviations" ? `${place >= 0 ? "+" : "−"}${Math.abs(place).toFixed(1)} sd` : percent(partOf(way, place));
    byId("motion-scene").dataset.place = place.toFixed(2);
    markPlace(place);
  });

  async function take(name) {
    way = ways.find((each) => each.name === name);
    series = await Promise.all((way.density ? [way.density] : way.frames).map(fieldOf));
    [along.min, along.max] = way.range;
    along.value = Math.min(Math.max(0, way.range[0]), way.range[1]);
    level.value = (mean ?? series[0]).level;
    inWidth(byId("motion-points"), () => { drawPlaces(way); markPlace(+along.value); });
    byId("motion-note").textContent = way.note;
    paint();
  }

  chips(byId("motions"), ways.map((each) => [each.name, each.label]), ways[0].name, take);
  level.addEventListener("input", () => scene.setLevel(+level.value));
  along.addEventListener("input", paint);
  byId("variable").addEventListener("change", paint);
  player(byId("play"), along, paint);
  if (motion.explained.length) inWidth(byId("explained"), () => drawExplained(motion.explained));
  await take(ways[0].name);
}

/** How far along its way a place is, 0 to 1. */
const partOf = ({ range: [low, high] }, place) => Math.min(Math.max((place - low) / (high - low), 0), 1);

/** A volume of a series at a place between its members. */
function between(series, place) {
  const before = Math.min(Math.floor(place), series.length - 2);
  if (series.length < 2) return series[0];
  const part = place - before;
  const values = series[before].values.map((value, i) => value + part * (series[before + 1].values[i] - value));
  return { ...series[before], values };
}

/** Move a slider to and fro. */
function player(button, slider, act) {
  let direction = 1, last = 0;
  const step = (now) => {
    if (button.dataset.playing !== "yes") return;
    const seconds = Math.min((now - last) / 1000, 0.1);
    last = now;
    const [low, high] = [+slider.min, +slider.max];
    let place = +slider.value + direction * seconds * ((high - low) / 2.5);
    if (place >= high || place <= low) direction = place >= high ? -1 : 1;
    slider.value = Math.min(Math.max(place, low), high);
    act();
    requestAnimationFrame(step);
  };
  button.addEventListener("click", () => {
    const playing = button.dataset.playing === "yes";
    button.dataset.playing = playing ? "no" : "yes";
    button.textContent = playing ? "▶" : "❚❚";
    button.setAttribute("aria-label", playing ? "Play" : "Pause");
    last = performance.now();
    if (!playing) requestAnimationFrame(step);
  });
}

/** Where the volumes lie along the motion, and where the slider is. */
let placeMark = null;
function drawPlaces(way) {
  placeMark = null;
  if (way.histogram) { drawHistogram(way); return; }
  const volumes = page.volumes.filter((volume) => volume.coordinates[way.name] !== undefined && volume.trusted);
  byId("motion-points").hidden = !volumes.length;
  if (!volumes.length) return;
  const area = pointChart(byId("motion-points"), {
    height: 190,
    x: { range: around(way.range, 0.05), name: `where the volumes lie: ${way.axis}` },
    y: { range: [-1, 1], hidden: true },
    points: volumes.map((volume) => ({
      x: volume.coordinates[way.name], y: ((volume.index * 0.618034) % 1) * 1.4 - 0.7, index: volume.index, trusted: true,
      colour: stateColour(volume.state), words: `volume ${volume.index}`,
    })),
    radius: 5,
    act: choose,
  });
  markIn(area);
}

function drawHistogram({ histogram, range: [low, high], axis }) {
  const step = (high - low) / histogram.length;
  markIn(barChart(byId("motion-points"), {
    height: 190,
    x: { range: [low, high], name: `particles by ${axis}` },
    y: { range: [0, 1.08 * Math.max(...histogram)], words: short },
    bars: histogram.map((value, i) => ({ value, at: low + (i + 0.5) * step })),
    width: 0.85 * step,
  }));
}

function markIn(area) {
  placeMark = { line: draw("line", { stroke: "var(--accent)", "stroke-width": 2, y1: area.top, y2: area.bottom, "pointer-events": "none" }), x: area.x };
  area.svg.append(placeMark.line);
}

function markPlace(place) {
  for (const end of ["x1", "x2"]) placeMark?.line.setAttribute(end, placeMark.x(place));
}

function drawExplained(shares) {
  const upto = Math.min(shares.length, 10);
  barChart(byId("explained"), {
    x: { range: [0.4, upto + 0.6], ticks: shares.slice(0, upto).map((_, i) => i + 1), name: "component" },
    y: { range: [0, Math.max(...shares) * 1.12], name: "explained", words: percent },
    bars: shares.slice(0, upto).map((value, i) => ({ value, at: i + 1 })),
  });
}
