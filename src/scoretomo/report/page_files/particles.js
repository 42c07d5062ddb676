// Fills the page of particles.

await fill([
  ["landscape", startLandscape, page.landscape],
  ["compare", startCompare, page.side_by_side.length],
  ["motion", startMotion, page.motion],
  ["training", startTraining, page.training],
  ["settings", startSettings, true],
]);
