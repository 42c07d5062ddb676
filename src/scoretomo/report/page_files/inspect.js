// One volume in full: class average, projection, surface, verdict, figures and files; in the map and in a dialog.

const PARTS = {
  seed_agreement: "agreement of independent repeats",
  score_excess: "projections unlike any class average",
  base_correlation: "match with its own class average",
  coverage: "class averages that it explains",
  sphere_coverage: "directions from which it is seen",
  sharpness: "share of fine detail",
  density_outlier: "amount of density, against the others",
  radius_outlier: "size, against the others",
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
    Object.keys(volume.parts).length ? make("table", {}, make("tbody", {}, Object.entries(volume.parts).map(([name, value]) =>
      make("tr", { title: name }, make("td", {}, partName(name)), make("td", {}, short(value)))))) : null,
    make("div", { class: "file" }, volume.files.join("  ·  "))));
  chips(sides, [["own", "as its class average"], ["tilted", "tilted"]], "own", (which) => {
    camera.home = which === "own" ? own : TILTED;
    camera.set(camera.home, 1);
  });
  const scene = new Scene(canvas, camera);
  scene.colour = volume.state === null ? STATE_COLOURS[0] : stateColour(volume.state);
  fieldOf(volume.density).then((field) => {
    level.value = field.level;
    level.addEventListener("input", () => scene.setLevel(+level.value));
    scene.show(field);
  });
  inspected.set(holder, scene);
}
