// What every page begins with, and how its sections are filled: what there is nothing for stays hidden.

function startOpening() {
  byId("name").textContent = page.name;
  byId("facts").replaceChildren(...page.facts.map(({ value, label, note }) => make("div", { class: "fact" },
    make("div", { class: "value" }, value), make("div", { class: "label" }, label), make("div", { class: "aside" }, note))));
  byId("findings").replaceChildren(...page.findings.map((sentence) => make("p", {}, sentence)));
  byId("frames").textContent = page.common_frame
    ? "All are in one frame and of one hand."
    : "Each volume is in the frame of its own class average, and of either hand.";
}

function startContents() {
  const sections = [...document.querySelectorAll("main section[data-title]")].filter((section) => !section.hidden);
  const links = new Map(sections.map((section) => [section, make("a", { href: `#${section.id}` }, section.dataset.title)]));
  byId("contents").replaceChildren(...links.values());
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) links.get(entry.target).classList.toggle("here", entry.isIntersecting);
  }, { rootMargin: "-45% 0px -50% 0px" });
  sections.forEach((section) => watcher.observe(section));
}

/** Fill the sections of a page; `starters` are [id, function, whether there is anything]. */
async function fill(starters) {
  startOpening();
  for (const [name, start, there] of starters) {
    byId(name).hidden = !there;
    if (there) await start();
  }
  startContents();
  document.documentElement.dataset.ready = "yes";
}
