// The cards of all volumes: filtered, sorted, drawn when they come near.

const CARDS_AT_ONCE = 60;
const shown = { verdict: "all", state: "all", sort: "index", limit: CARDS_AT_ONCE };

const SORTS = [
  ["index", "number", (volume) => volume.index],
  ["best", "most reliable first", (volume) => -(volume.probability ?? -1)],
  ["worst", "least reliable first", (volume) => volume.probability ?? 2],
  ["match", "match with class average", (volume) => -volume.correlation],
  ["state", "state", (volume) => volume.state ?? 1e6],
];

/** Volumes that the filters let through, in order. */
function shownVolumes() {
  const [, , key] = SORTS.find(([name]) => name === shown.sort);
  return page.volumes
    .filter((volume) => shown.verdict === "all" || verdictOf(volume) === shown.verdict)
    .filter((volume) => shown.state === "all" || String(volume.state) === shown.state)
    .sort((a, b) => key(a) - key(b) || a.index - b.index);
}

function card(volume) {
  const pictures = [[classAverage, "class average"], [projection, "projection"]].map(([drawn, words]) => {
    const canvas = make("canvas", { role: "img", "aria-label": words, title: words });
    whenNear(canvas, () => drawn(canvas, volume));
    return canvas;
  });
  const thumb = make("canvas", { class: "thumb", role: "img", "aria-label": "volume in 3D", title: "volume" });
  whenNear(thumb, async () => {
    const field = await fieldOf(volume.density);
    const scene = new Scene(thumb, new Camera(volume.view ?? STRAIGHT), { still: true });
    scene.show(field, { colour: surfaceColour(volume) });
  });
  const why = volume.reasons.length ? volume.reasons.join("; ") : `matches its class average at ${volume.correlation.toFixed(2)}`;
  return make("button", { type: "button", class: "card", "data-index": volume.index, onclick: () => { choose(volume.index); openDetail(); } },
    make("div", { class: "head" }, `${volume.index}`, stateLabel(volume), make("span", { class: "grow" }),
      volume.image_verdict === "junk" ? make("span", { class: "verdict junk" }, "junk image") : null, verdictBadge(volume)),
    make("div", { class: "trio" }, ...pictures, thumb),
    make("div", { class: "why" }, why));
}

function drawCards() {
  const wanted = shownVolumes();
  byId("cards").replaceChildren(...wanted.slice(0, shown.limit).map(card));
  byId("shown").textContent = wanted.length === page.volumes.length ? `${wanted.length} volumes` : `${wanted.length} of ${page.volumes.length} volumes`;
  byId("more").hidden = wanted.length <= shown.limit;
  byId("more").textContent = `show ${Math.min(CARDS_AT_ONCE, wanted.length - shown.limit)} more`;
  markCard(chosen.index);
}

function markCard(index) {
  for (const each of byId("cards").children) each.classList.toggle("chosen", +each.dataset.index === index);
}

function openDetail() {
  const dialog = byId("detail");
  inspect(dialog, volumeOf(chosen.index), { close: () => dialog.close() });
  if (!dialog.open) dialog.showModal();
}

function startVolumes() {
  const refresh = (change) => { Object.assign(shown, change, { limit: CARDS_AT_ONCE }); drawCards(); };
  const count = (verdict) => page.volumes.filter((volume) => verdictOf(volume) === verdict).length;
  const there = VERDICTS.filter(count);
  chips(byId("verdicts"), [["all", `all ${page.volumes.length}`], ...there.map((name) => [name, `${name === "unjudged" ? "not judged" : name} ${count(name)}`])],
    "all", (verdict) => refresh({ verdict }));
  options(byId("of-state"), [["all", "all"], ...page.states.map((state, i) => [String(i), state.label])], "all");
  byId("of-state").parentElement.hidden = page.states.length === 0;
  byId("of-state").addEventListener("change", (event) => refresh({ state: event.target.value }));
  const judged = page.volumes.some((volume) => volume.probability !== null);
  const sorts = SORTS.filter(([name]) => (judged || !["best", "worst"].includes(name)) && (page.states.length || name !== "state"));
  options(byId("sort"), sorts.map(([name, words]) => [name, words]), "index");
  byId("sort").addEventListener("change", (event) => refresh({ sort: event.target.value }));
  byId("more").addEventListener("click", () => { shown.limit += CARDS_AT_ONCE; drawCards(); });
  byId("save-table").addEventListener("click", () => save("volumes.csv", page.table));
  chosen.listeners.push((index) => { markCard(index); if (byId("detail").open) openDetail(); });
  byId("detail").addEventListener("click", (event) => { if (event.target === byId("detail")) byId("detail").close(); });
  drawCards();
  drawLeftOut();
}

function drawLeftOut() {
  byId("left-out").hidden = !page.left_out.length;
  byId("left-out-images").replaceChildren(...page.left_out.map(({ index, reasons }, place) => {
    const canvas = make("canvas", { role: "img", "aria-label": `class average ${index}` });
    whenNear(canvas, () => drawPicture(canvas, "left-out", place));
    return make("figure", {}, canvas, make("figcaption", {}, `${index}: ${reasons.join("; ")}`));
  }));
}
