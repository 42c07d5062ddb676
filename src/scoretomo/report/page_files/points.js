// Point models of a few class averages: their density, how it agrees with the volume, and pictures.

function startPoints() {
  const { points } = page;
  byId("points-words").textContent = points.words;
  const scene = new Scene(byId("points-scene"));
  fieldOf(points.density).then((field) => {
    byId("points-level").value = field.level;
    scene.show(field, { colour: STATE_COLOURS[1] });
  });
  byId("points-level").addEventListener("input", (event) => scene.setLevel(+event.target.value));
  const curves = points.fsc.map((curve, i) => ({ ...curve, colour: STATE_COLOURS[[1, 0, 2][i % 3]], dashed: i > 0 }));
  fscChart(byId("points-fsc"), curves, { mark: { level: 0.5, words: "0.5" }, height: 400 });
  byId("points-pictures").replaceChildren(...points.pictures.flatMap(({ words, image }) => [
    make("h3", {}, words),
    make("img", { src: `data:image/png;base64,${image}`, alt: words, loading: "lazy" }),
  ]));
}
