// Fourier shell correlations, the course of the training, what the denoiser makes up, and how all of it was made.

const resolutionWords = (frequency) => (frequency > 0 ? `${(1 / frequency).toPrecision(frequency > 0.1 ? 2 : 3)} Å` : "∞");

function fscChart(holder, curves, { mark, height }) {
  const last = Math.max(...curves.map((curve) => curve.x.at(-1)));
  lineChart(holder, {
    curves, height,
    x: { range: [0, last], name: "resolution", words: resolutionWords, reading: resolutionWords },
    y: { range: [-0.1, 1.02], name: "FSC", ticks: [0, 0.25, 0.5, 0.75, 1], reading: (value) => value.toFixed(2) },
    marks: mark ? [mark] : [],
  });
}

function startConsensus() {
  const { consensus } = page;
  byId("consensus-words").textContent = consensus.words;
  if (consensus.density) {
    const scene = new Scene(byId("consensus-scene"));
    fieldOf(consensus.density).then((field) => {
      byId("consensus-level").value = field.level;
      scene.show(field, { colour: STATE_COLOURS[2] });
    });
    byId("consensus-level").addEventListener("input", (event) => scene.setLevel(+event.target.value));
  } else byId("consensus-scene").parentElement.hidden = true;
  if (consensus.fsc.length) {
    const curves = consensus.fsc.map((curve, i) => ({ ...curve, colour: STATE_COLOURS[[2, 0, 1, 5][i % 4]], dashed: curve.name === "phase randomised" }));
    fscChart(byId("consensus-fsc"), curves, { mark: { level: 0.143, words: "0.143" }, height: 400 });
  } else byId("consensus-fsc").parentElement.hidden = true;
}

function startAgreement() {
  const { curves, median } = page.agreement;
  fscChart(byId("seed-fsc"), [
    ...curves.map((curve) => ({ ...curve, name: null, faint: true, colour: `var(--${curve.verdict})` })),
    ...median.map((curve) => ({ ...curve, colour: `var(--${curve.verdict})` })),
  ], { mark: { level: 0.5, words: "0.5" }, height: 380 });
  byId("seed-resolutions").replaceChildren(...median.flatMap((curve) => [
    make("dt", {}, make("span", { class: `verdict ${curve.verdict}` }, `${VERDICT_SIGNS[curve.verdict]} ${curve.verdict}`)),
    make("dd", {}, curve.resolution === null ? "repeats do not agree" : `repeats agree to ${curve.resolution.toPrecision(3)} Å`, ` (${curve.count} volumes)`),
  ]));
}

function startDenoiser() {
  const { training, samples } = page.denoiser;
  byId("training").hidden = !training;
  if (training) {
    const seen = { range: [0, training.steps.at(-1)], name: "images seen" };
    lineChart(byId("loss"), {
      curves: [{ name: "loss", x: training.steps, y: training.loss, colour: STATE_COLOURS[0] }],
      x: seen, y: { range: logRange(training.loss), logarithmic: true, name: "loss" },
    });
    byId("held-out-panel").hidden = !training.held_out.length;
    if (training.held_out.length) {
      lineChart(byId("held-out"), {
        curves: training.held_out.map((curve, i) => ({ name: `noise ${curve.sigma}`, x: training.steps, y: curve.error, colour: STATE_COLOURS[i % 8] })),
        x: seen, y: { range: logRange(training.held_out.flatMap((curve) => curve.error)), logarithmic: true, name: "mean squared error" },
      });
    }
  }
  byId("samples-panel").hidden = !samples;
  if (samples) drawSamples(samples);
}

function logRange(values) {
  const known = values.filter((value) => value > 0);
  return [Math.min(...known) * 0.85, Math.max(...known) * 1.15];
}

function drawSamples(samples) {
  byId("samples-words").textContent = samples.words;
  const row = (words, block, count, captions) => [
    make("div", { class: "row" }, words),
    ...Array.from({ length: 8 }, (_, i) => {
      if (i >= count) return make("div");
      const canvas = make("canvas", { role: "img", "aria-label": `${words} ${i + 1}` });
      whenNear(canvas, () => drawPicture(canvas, ...block(i)));
      return make("figure", {}, canvas, captions ? make("figcaption", {}, captions[i]) : null);
    }),
  ];
  const count = Math.min(8, samples.correlation.length);
  byId("samples").replaceChildren(
    ...row("made up by the denoiser", (i) => ["samples", 2 * i], count),
    ...row("its nearest training image, turned to fit", (i) => ["samples", 2 * i + 1], count,
      samples.correlation.slice(0, count).map((value, i) => `${value.toFixed(2)} (${samples.nearest[i]})`)),
    ...row("class averages", (i) => ["samples-data", i], Math.min(8, samples.data)),
  );
}

function startSettings() {
  byId("provenance").replaceChildren(...page.provenance.flatMap(([name, value, code]) =>
    [make("dt", {}, name), make("dd", {}, code ? make("code", {}, value) : value)]));
  byId("all-settings").textContent = page.settings;
  byId("missing").replaceChildren(...page.missing.map(([words, command]) =>
    make("p", { class: "missing" }, `${words}: `, make("code", {}, command))));
}
