// What all parts of the page share: its data, elements, the theme, tips, and the volume that is chosen.

const page = JSON.parse(document.getElementById("page-data").textContent);
const byId = (id) => document.getElementById(id);

// The colours of states: told apart by those who see red and green alike (Okabe and Ito 2008), softened.
const STATE_COLOURS = ["#4f8fd6", "#e0912f", "#2fa37c", "#c96a9b", "#c9b02b", "#7a6fd0", "#d1603d", "#53b6d1"];
const NO_STATE = "#8d98a8";
const VERDICTS = ["reliable", "doubtful", "wrong", "unjudged"];
const VERDICT_SIGNS = { reliable: "✓", doubtful: "?", wrong: "✕", unjudged: "·", junk: "✕" };

/** An element with attributes, listeners (`onclick`), and children: elements or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const stateColour = (state) => (state === null || state === undefined ? NO_STATE : STATE_COLOURS[state % STATE_COLOURS.length]);
/** Of a volume's surface: its state's colour; grey if it is not reliable. */
function surfaceColour(volume) {
  if (!volume.trusted) return NO_STATE;
  return volume.state === null ? STATE_COLOURS[0] : stateColour(volume.state);
}
const stateName = (state) => page.states[state]?.label ?? `state ${state + 1}`;
const verdictOf = (volume) => volume.verdict ?? "unjudged";
const percent = (part) => `${Math.round(100 * part)}%`;

function verdictBadge(volume) {
  const verdict = verdictOf(volume);
  const sure = volume.probability === null ? "" : ` ${percent(volume.probability)}`;
  const words = verdict === "unjudged" ? "not judged" : verdict;
  return make("span", { class: `verdict ${verdict}` }, `${VERDICT_SIGNS[verdict]} ${words}${sure}`);
}

function stateLabel(volume) {
  if (volume.state === null) return null;
  return make("span", { class: "state" }, swatch(stateColour(volume.state)), stateName(volume.state));
}

const swatch = (colour) => make("i", { class: "swatch", style: `background:${colour}` });

/** A row of buttons of which one is pressed; `choices` are [value, words]. */
function chips(holder, choices, chosen, act) {
  holder.replaceChildren(
    ...choices.map(([value, words]) =>
      make("button", {
        type: "button",
        "data-value": String(value),
        "aria-pressed": String(value === chosen),
        onclick: (event) => {
          for (const button of holder.children) button.setAttribute("aria-pressed", "false");
          event.currentTarget.setAttribute("aria-pressed", "true");
          act(value);
        },
      }, words)),
  );
}

function options(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, words]) => make("option", { value, selected: value === chosen }, words)));
}

// Light or dark: as the system has it until the button is pressed.
const theme = { listeners: new Set(), get dark() { return document.documentElement.dataset.theme === "dark"; } };
function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  for (const listener of theme.listeners) listener();
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
byId("theme").addEventListener("click", () => setTheme(!theme.dark));

const tip = {
  show(text, event) {
    const box = byId("tip");
    box.textContent = text;
    box.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
    const top = event.clientY + 18 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 12 : event.clientY + 18;
    box.style.left = `${left}px`;
    box.style.top = `${top}px`;
  },
  hide() { byId("tip").hidden = true; },
};

// The volume that is chosen, in whatever section it was clicked.
const chosen = { index: null, listeners: [] };
function choose(index) {
  chosen.index = index;
  for (const listener of chosen.listeners) listener(index);
}
const volumeOf = (index) => page.volumes.find((volume) => volume.index === index);

/** Run at most once a frame, however often it is asked for. */
function onceAFrame(act) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; act(); });
  };
}

/** Call when an element first comes near the window. */
function whenNear(element, act) {
  const watcher = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watcher.disconnect();
    act();
  }, { rootMargin: "300px" });
  watcher.observe(element);
}

function save(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
