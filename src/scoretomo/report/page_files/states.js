// The map of states: a point for each volume, the chosen one beside it in full.

function startStates() {
  const placed = page.volumes.filter((volume) => page.axis_pairs[0].every((name) => volume.coordinates[name] !== undefined));
  const pairs = page.axis_pairs.map(([a, b]) => [`${a} ${b}`, `${axisName(a)} and ${axisName(b)}`]);
  options(byId("axes"), pairs, pairs[0][0]);
  const colours = [
    ...(page.states.length ? [["state", "state"]] : []),
    ...(placed.some((volume) => volume.probability !== null) ? [["probability", "probability of being right"]] : []),
    ...page.axes.filter(([name]) => !name.startsWith("map")).map(([name, words]) => [name, words]),
  ];
  options(byId("colouring"), colours, colours[0]?.[0]);
  const redraw = () => inWidth(byId("map"), () => drawMap(placed, byId("axes").value.split(" "), byId("colouring").value));
  byId("axes").addEventListener("change", redraw);
  byId("colouring").addEventListener("change", redraw);
  chosen.listeners.push((index) => { markPoint(index); inspect(byId("chosen"), volumeOf(index)); });
  const left = page.volumes.length - placed.length;
  const untrusted = placed.filter((volume) => !volume.trusted).length;
  byId("map-note").textContent = [
    untrusted ? `✕ ${untrusted} volumes that are not reliable: they had no part in making this map.` : "",
    left ? `${left} volumes have no place in it.` : "",
  ].join(" ");
  redraw();
  const first = page.states[0]?.representative ?? placed.find((volume) => volume.trusted)?.index ?? placed[0].index;
  whenNear(byId("chosen"), () => { if (chosen.index === null) choose(first); });
}

const axisName = (name) => page.axes.find(([each]) => each === name)?.[1] ?? name;

function drawMap(placed, [across, up], by) {
  const values = placed.map((volume) => (by === "probability" ? volume.probability : volume.coordinates[by]));
  const known = values.filter((value) => value !== null && value !== undefined);
  const [low, high] = by === "probability" ? [0, 1] : [Math.min(...known), Math.max(...known)];
  const colour = (volume, i) => (by === "state" ? stateColour(volume.state)
    : values[i] === null || values[i] === undefined ? NO_STATE : rampColour((values[i] - low) / (high - low || 1)));
  const at = (name) => placed.map((volume) => volume.coordinates[name]);
  pointChart(byId("map"), {
    height: 540,
    x: { range: around(at(across)), name: axisName(across) },
    y: { range: around(at(up)), name: axisName(up) },
    radius: placed.length > 150 ? 4.5 : 6.5,
    points: placed.map((volume, i) => ({
      x: volume.coordinates[across], y: volume.coordinates[up], index: volume.index, trusted: volume.trusted,
      colour: volume.trusted ? colour(volume, i) : "var(--faint)",
      words: `volume ${volume.index}: ${verdictOf(volume)}${volume.state === null ? "" : `, ${stateName(volume.state)}`}`,
    })),
    act: choose,
  });
  byId("map-legend").replaceChildren(...(by === "state"
    ? page.states.map((state, i) => make("span", {}, swatch(stateColour(i)), `${state.label}, ${percent(state.share)}`))
    : [make("span", {}, short(low), make("i", { class: "ramp", style: `background:linear-gradient(90deg,${RAMP.join(",")})` }), short(high))]));
  markPoint(chosen.index);
}

function markPoint(index) {
  for (const point of byId("map").querySelectorAll(".point")) point.classList.toggle("chosen", +point.dataset.index === index);
}
