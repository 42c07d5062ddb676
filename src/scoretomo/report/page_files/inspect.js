// One volume in full: class average, projection, surface, verdict, figures and files; in the map and in a dialog.

const PARTS = {
  seed_agreement: "agreement of independent repeats (1 is perfect)",
  neighbour_agreement: "agreement with volumes of like images (1 is perfect)",
  score_excess: "projections unlike class averages (sd)",
  worst_view: "the worst of its projections (sd)",
  base_support: "other volumes that explain its image as well (part)",
  match: "match with class averages from other sides",
  coverage: "class averages that it explains best (part)",
  sphere_coverage: "directions that class averages confirm (part)",
  base_correlation: "match with its own class average",
  sharpness: "fine detail",
  contrast: "contrast of density (logarithm)",
  density: "spread of density (logarithm)",
  radius: "radius (part of the box)",
};
const partName = (name) => PARTS[name] ?? name.replaceAll("_", " ");

const inspected = new Map();

/** Fill an element with a volume, in the place of the last one. */
function inspect(holder, volume, { close = null } = {}) {
  inspected.get(holder)?.close();
  const own = volume.view ?? STRAIGHT;
  const camera = new Camera(own);
  const flat = (draw, caption) => {
    const canvas = make("canvas", { role: "img", "aria-label": `${caption} ${volume.index}` });
    draw(canvas, volume);
    return make("figure", {}, canvas, make("figcaption", {}, caption));
  };
  const canvas = make("canvas", { class: "scene", "aria-label": `volume ${volume.index} in 3D` });
  const level = make("input", { type: "range", min: 0.05, max: 1, step: 0.005, "aria-label": "Level" });
  const sides = make("div", { class: "chips" });
  const neighbour = (step) => {
    const list = shownVolumes().length ? shownVolumes() : page.volumes;
    const at = list.findIndex((each) => each.index === volume.index);
    choose(list[(at + step + list.length) % list.length].index);
  };
  holder.replaceChildren(make("div", { class: "inspect", "data-index": volume.index },
    make("div", { class: "head" },
      make("h3", {}, `Volume ${volume.index}`), verdictBadge(volume), stateLabel(volume), make("span", { class: "grow" }),
      make("button", { type: "button", "aria-label": "previous", onclick: () => neighbour(-1) }, "‹"),
      make("button", { type: "button", "aria-label": "next", onclick: () => neighbour(1) }, "›"),
      close && make("button", { type: "button", "aria-label": "close", onclick: close }, "✕")),
    make("div", { class: "views" },
      make("div", { class: "flat" }, flat(classAverage, "class average"), flat(projection, "projection of the volume")),
      make("div", {}, canvas, make("div", { class: "under" }, sides, make("label", {}, "Level ", level)))),
    volume.reasons.length ? make("ul", { class: "reasons" }, volume.reasons.map((words) => make("li", {}, words))) : null,
    volume.image_reasons.length || volume.image_verdict === "junk"
      ? make("p", { class: "note" }, `Class average: ${volume.image_verdict}. ${volume.image_reasons.join("; ")}`) : null,
    volume.views ? viewsPlot(volume.views) : null,
    Object.keys(volume.parts).length ? make("table", {}, make("tbody", {}, Object.entries(volume.parts).map(([name, value]) =>
      make("tr", { title: name }, make("td", {}, partName(name)), make("td", {}, short(value)))))) : null,
    make("div", { class: "file" }, volume.files.join("  ·  "))));
  chips(sides, [["own", "as its class average"], ["tilted", "tilted"]], "own", (which) => {
    camera.home = which === "own" ? own : TILTED;
    camera.set(camera.home, 1);
  });
  const scene = new Scene(canvas, camera);
  scene.colour = surfaceColour(volume);
  fieldOf(volume.density).then((field) => {
    level.value = field.level;
    level.addEventListener("input", () => scene.setLevel(+level.value));
    scene.show(field);
  });
  inspected.set(holder, scene);
}

// Residuals of projections, in standard deviations of class averages, at which the colour is full.
const FULL_EXCESS = 4;

/** The hemisphere of directions, seen from the class average's side: which projections look wrong. */
function viewsPlot(excess) {
  const radius = 62;
  const svg = draw("svg", { viewBox: "-70 -70 140 140", class: "hemisphere", role: "img", "aria-label": "directions" });
  svg.append(draw("circle", { r: radius + 5, class: "rim" }));
  page.view_directions.forEach(([x, y, z], i) => {
    // the area of the hemisphere is kept (Lambert)
    const scale = radius / Math.sqrt(1 + z);
    const dot = draw("circle", { cx: x * scale, cy: -y * scale, r: 5.5, fill: rampColour(0.5 + excess[i] / (2 * FULL_EXCESS)) });
    dot.append(draw("title", {}, `${excess[i] >= 0 ? "+" : "−"}${Math.abs(excess[i]).toFixed(1)} standard deviations`));
    svg.append(dot);
  });
  return make("div", { class: "views-plot" }, svg, make("p", { class: "note" },
    "Its projections from all sides, the middle being the side of its class average. Red: unlike the class averages; blue: like them."));
}
