// The course of a training on particles: the loss, and how much a search of the poses changes them.

function startTraining() {
  const { words, loss, poses } = page.training;
  byId("training-words").textContent = words;
  const seen = { range: [0, loss.x.at(-1)], name: "images seen" };
  const course = (holder, name, { x, y }, colour, range) => lineChart(byId(holder), {
    curves: [{ name, x, y, colour: STATE_COLOURS[colour] }], x: seen, y: { name, ...range },
  });
  course("loss", "loss", loss, 0, { range: around(loss.y) });
  byId("poses-panel").hidden = byId("further-training").hidden = !poses;
  if (!poses) return;
  const { x, median, mean, moved, score } = poses;
  lineChart(byId("poses"), {
    curves: [{ name: "median", x, y: median, colour: STATE_COLOURS[1] }, { name: "mean", x, y: mean, colour: STATE_COLOURS[5], dashed: true }],
    x: seen, y: { range: logRange([...median, ...mean]), logarithmic: true, name: "turned by (degrees)" },
  });
  course("moved", "median shift (pixels)", { x, y: moved }, 2, { range: [0, 1.1 * Math.max(...moved, 0.1)] });
  course("scores", "mean correlation", { x, y: score }, 3, { range: around(score) });
}
