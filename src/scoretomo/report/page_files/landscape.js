// The map of particles: thousands of points on a canvas beneath a chart, and the volume of the cluster that is chosen.

// A particle farther from the pointer than this, in pixels, is not meant.
const REACH = 14;

function startLandscape() {
  const { landscape } = page;
  const pairs = landscape.pairs.map(([a, b, words]) => [`${a} ${b}`, words]);
  options(byId("axes"), pairs, pairs[0][0]);
  options(byId("colouring"), [["cluster", "cluster"], ...landscape.colourings], "cluster");
  const redraw = () => inWidth(byId("map"), () => drawCloud(byId("axes").value.split(" "), byId("colouring").value));
  byId("axes").addEventListener("change", redraw);
  byId("colouring").addEventListener("change", redraw);
  byId("map-note").textContent = landscape.note;
  byId("map-click").textContent = landscape.click;
  chosen.listeners.push((number) => { markCluster(number); showCluster(landscape.clusters[number]); });
  redraw();
  inWidth(byId("populations"), () => { drawPopulations(landscape.clusters); markCluster(chosen.index); });
  const counts = landscape.clusters.map((cluster) => cluster.count);
  choose(counts.indexOf(Math.max(...counts)));
}

const clusterWords = ({ number, count, share }) => `cluster ${number}: ${count} particles (${percent(share)})`;

function drawCloud([across, up], by) {
  const { landscape } = page;
  const { columns, rows, labels, clusters, names } = landscape;
  const [x, y] = [columns[across], columns[up]];
  const area = frame(byId("map"), {
    height: 540, x: { range: around(x), name: names[across] }, y: { range: around(y), name: names[up], hidden: up === "jitter" },
  });
  const places = x.map((value, i) => [area.x(value), area.y(y[i])]);
  byId("map").prepend(paintCloud(area, places, cloudColours(by)));
  area.svg.append(draw("polyline", { class: "walk", points: landscape.path[across].map((value, i) => `${area.x(value)},${area.y(landscape.path[up][i])}`).join(" ") }));
  for (const cluster of clusters) {
    const at = { cx: area.x(landscape.central[across][cluster.number]), cy: area.y(landscape.central[up][cluster.number]) };
    const mark = draw("g", { class: "point central", "data-index": cluster.number, tabindex: 0, role: "button", "aria-label": clusterWords(cluster) },
      draw("circle", { ...at, r: 10, fill: cluster.colour }),
      draw("text", { x: at.cx, y: at.cy + 4, "text-anchor": "middle" }, String(cluster.number)));
    mark.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(cluster.number); } });
    area.svg.append(mark);
  }
  const meant = (event) => {
    const central = event.target.closest?.(".central");
    if (central) return { cluster: clusters[+central.dataset.index], words: "" };
    const box = area.svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let nearest = -1, least = REACH ** 2;
    places.forEach(([a, b], i) => { const far = (a - px) ** 2 + (b - py) ** 2; if (far < least) [nearest, least] = [i, far]; });
    return nearest < 0 ? null : { cluster: clusters[labels[nearest]], words: `particle in row ${rows[nearest]}\n` };
  };
  area.svg.addEventListener("pointermove", (event) => {
    const found = meant(event);
    if (found) tip.show(found.words + clusterWords(found.cluster), event);
    else tip.hide();
  });
  area.svg.addEventListener("pointerleave", tip.hide);
  area.svg.addEventListener("click", (event) => { const found = meant(event); if (found) choose(found.cluster.number); });
  markCluster(chosen.index);
}

/** The colour of every particle, and what the colours mean. */
function cloudColours(by) {
  const { columns, labels, clusters } = page.landscape;
  if (by === "cluster") {
    byId("map-legend").replaceChildren();
    return labels.map((label) => clusters[label].colour);
  }
  const values = columns[by];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  byId("map-legend").replaceChildren(make("span", {}, short(low),
    make("i", { class: "ramp", style: `background:linear-gradient(90deg,${RAMP.join(",")})` }), short(high)));
  return values.map((value) => rampColour((value - low) / (high - low || 1)));
}

function paintCloud({ svg }, places, colours) {
  const { width, height } = svg.viewBox.baseVal;
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const canvas = make("canvas", { width: width * ratio, height: height * ratio, style: `width:${width}px;height:${height}px`, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.globalAlpha = 0.6;
  const radius = places.length > 8000 ? 1.2 : places.length > 1500 ? 2 : 3;
  places.forEach(([x, y], i) => {
    context.fillStyle = colours[i];
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  });
  canvas.dataset.points = places.length;
  return canvas;
}

function markCluster(number) {
  for (const mark of document.querySelectorAll("#map .central, #populations .bar-of")) mark.classList.toggle("chosen", +mark.dataset.index === number);
}

function drawPopulations(clusters) {
  barChart(byId("populations"), {
    height: 190, act: choose,
    x: { range: [-0.6, clusters.length - 0.4], ticks: clusters.map(({ number }) => number), name: "cluster" },
    y: { range: [0, 1.08 * Math.max(...clusters.map(({ count }) => count))], words: short },
    bars: clusters.map((cluster) => ({ value: cluster.count, at: cluster.number, index: cluster.number, colour: cluster.colour, words: clusterWords(cluster) })),
  });
}

let clusterScene = null;
function showCluster(cluster) {
  const { clusters } = page.landscape;
  const step = (by) => choose((cluster.number + by + clusters.length) % clusters.length);
  clusterScene?.scene.close();
  const camera = clusterScene?.scene.camera ?? new Camera();
  const canvas = cluster.density ? make("canvas", { class: "scene", "aria-label": `volume of cluster ${cluster.number} in 3D` }) : null;
  const level = make("input", { type: "range", min: 0.05, max: 1, step: 0.005, "aria-label": "Level" });
  byId("chosen").replaceChildren(
    make("div", { class: "head" }, make("h3", {}, swatch(cluster.colour), ` Cluster ${cluster.number}`), make("span", { class: "grow" }),
      make("button", { type: "button", "aria-label": "previous", onclick: () => step(-1) }, "‹"),
      make("button", { type: "button", "aria-label": "next", onclick: () => step(1) }, "›")),
    make("p", { class: "note" }, `${cluster.count} particles (${percent(cluster.share)}), the most central one in row ${cluster.row}`
      + (cluster.density ? ", whose volume this is." : ".")),
    ...(canvas ? [canvas, make("div", { class: "under" }, make("label", {}, "Level ", level))] : []),
    make("div", { class: "file" }, cluster.command));
  if (!canvas) return;
  const scene = new Scene(canvas, camera);
  clusterScene = { scene, level: clusterScene?.level ?? null };
  fieldOf(cluster.density).then((field) => {
    level.value = clusterScene.level ?? field.level;
    scene.setLevel(+level.value);
    level.addEventListener("input", () => { clusterScene.level = +level.value; scene.setLevel(+level.value); });
    scene.show(field, { colour: cluster.colour });
  });
}
