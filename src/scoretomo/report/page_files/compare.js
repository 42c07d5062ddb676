// Several volumes side by side, at one level, turning together.

function startCompare() {
  const groups = page.choices;
  const all = groups.flatMap((group) => group.items);
  const shared = new Camera();
  const own = [];
  const scenes = page.side_by_side.map((name, place) => {
    const canvas = make("canvas", { class: "scene", "aria-label": `3D view ${place + 1}` });
    const measure = make("span", { class: "measure", title: "volume inside the surface; mass if it were all protein (1.21 Å³/Da)" });
    const select = make("select", { "aria-label": `volume of view ${place + 1}` },
      groups.map((group) => make("optgroup", { label: group.name }, group.items.map((item) =>
        make("option", { value: item.density, selected: item.density === name }, item.label)))));
    byId("scenes").append(make("div", { class: "scene-card" }, canvas, make("div", { class: "under" }, select, measure)));
    const scene = new Scene(canvas, shared);
    own.push(new Camera());
    const measured = onceAFrame(() => { if (scene.field) measure.textContent = massOf(scene); });
    const load = async () => {
      const item = all.find((each) => each.density === select.value);
      const field = await fieldOf(select.value);
      canvas.dataset.density = select.value;
      scene.show(field, { colour: item.colour ?? (item.state === null ? STATE_COLOURS[place % 8] : stateColour(item.state)) });
      measured();
    };
    select.addEventListener("change", load);
    load();
    return { scene, measured };
  });
  const level = byId("level");
  level.value = page.densities[page.side_by_side[0]].level;
  const setLevel = () => {
    byId("level-value").textContent = `${percent(level.value)} of peak`;
    for (const { scene, measured } of scenes) { scene.setLevel(+level.value); measured(); }
  };
  level.addEventListener("input", onceAFrame(setLevel));
  setLevel();
  byId("linked").addEventListener("change", (event) => scenes.forEach(({ scene }, i) => {
    if (!event.target.checked) own[i].set(shared.turn, shared.zoom);
    scene.follow(event.target.checked ? shared : own[i]);
  }));
  const cameras = () => new Set(scenes.map(({ scene }) => scene.camera));
  chips(byId("views"), VIEWS.map(([name]) => [name, name]), "tilted", (name) => {
    for (const camera of cameras()) camera.set(VIEWS.find(([each]) => each === name)[1], camera.zoom);
  });
  spin(byId("spin"), () => { for (const camera of cameras()) camera.rotate(0.012, 0); });
}

/** Volume inside the surface, and the mass of as much protein. */
function massOf({ field, threshold }) {
  const angstrom = enclosed(field, threshold) * field.voxel ** 3;
  const kilodalton = angstrom / 1.21 / 1000;
  const mass = kilodalton >= 1000 ? `${(kilodalton / 1000).toPrecision(2)} MDa` : `${+kilodalton.toPrecision(2)} kDa`;
  return `${+(angstrom / 1000).toPrecision(2)} nm³, ${mass}`;
}

function spin(box, turn) {
  const step = () => { if (box.checked) { turn(); requestAnimationFrame(step); } };
  box.addEventListener("change", step);
}
