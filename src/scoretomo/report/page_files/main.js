// Fills the page of class averages.

await fill([
  ["volumes", startVolumes, page.volumes.length],
  ["compare", startCompare, page.side_by_side.length],
  ["states", startStates, page.axis_pairs.length],
  ["motion", startMotion, page.motion],
  ["consensus", startConsensus, page.consensus],
  ["points", startPoints, page.points],
  ["agreement", startAgreement, page.agreement],
  ["denoiser", startDenoiser, page.denoiser],
  ["settings", startSettings, true],
]);
