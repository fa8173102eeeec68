"use strict";

// The report's page. `window.REPORT` comes from data.js; Tabulator draws the table and uPlot the curves.

const report = window.REPORT;
const runs = report.runs;
const alone = runs.length === 1;
const dark = matchMedia("(prefers-color-scheme: dark)");
const find = (id) => document.getElementById(id);
const PALETTE = ["#3b82c4", "#e07b39", "#3fa66b", "#c2507f", "#8a68c9", "#a3863b", "#39a5b5", "#d0564f", "#7a8794", "#95b83c"];

runs.forEach((run, index) => {
  run.index = index;
  run.colour = index < PALETTE.length ? PALETTE[index] : `hsl(${(index * 137.5) % 360} 55% 55%)`;
  run.shown = true;
});

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function duration(seconds) {
  if (seconds == null) return "";
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

const significant = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value);
const setting = (value) => (value == null ? "" : typeof value === "object" ? JSON.stringify(value) : String(significant(value)));

/** A run's label with the settings that are its own, by the last part of their names. */
function title(run) {
  const own = report.settings.filter((name) => run[name] != null).map((name) => `${name.replace(/\.name$/, "").split(".").pop()} ${setting(run[name])}`);
  return alone ? run.run : [run.run, own.join(", ")].filter(Boolean).join(": ");
}

/* The table */

const LOSSES = ["held_out_loss", "best_held_out_loss", "loss"];
const best = Object.fromEntries(Object.entries(report.better).map(([name, better]) => {
  const values = runs.map((run) => run[name]).filter((value) => value != null);
  return [name, better === "higher" ? Math.max(...values) : Math.min(...values)];
}));

function result(name) {
  return (cell) => {
    const value = cell.getValue();
    if (value == null) return "";
    if (name === "seconds") return duration(value);
    const text = LOSSES.includes(name) ? value.toFixed(4) : name === "memory_gib" ? value.toFixed(2) : setting(value);
    return make("span", { className: !alone && value === best[name] ? "best" : "", textContent: text });
  };
}

function nameCell(cell) {
  const run = cell.getData().of;
  if (alone) return make("span", { textContent: run.run });
  const box = make("input", { type: "checkbox", checked: run.shown, ariaLabel: `show ${run.run}` });
  box.addEventListener("change", () => { run.shown = box.checked; showRuns(); });
  const swatch = make("span", { className: "swatch" });
  swatch.style.background = run.colour;
  return make("span", {}, box, " ", swatch, make("a", { href: run.link + "/", textContent: run.run }));
}

const columns = [
  { title: "run", field: "run", formatter: nameCell, frozen: innerWidth > 700, sorter: "alphanum" },
  { title: "status", field: "status", formatter: (cell) => make("span", { className: cell.getValue(), textContent: cell.getValue() }) },
  ...report.settings.map((name) => ({
    title: name, field: `setting ${name}`, formatter: (cell) => make("span", { textContent: setting(cell.getValue()) }),
    sorter: runs.every((run) => run[name] == null || typeof run[name] === "number") ? "number" : "alphanum",
  })),
  ...Object.entries(report.columns)
    .filter(([name]) => runs.some((run) => run[name] != null))
    .map(([name, title]) => ({ title, field: name, cssClass: "number", hozAlign: "right", headerHozAlign: "right", sorter: "number",
      sorterParams: { alignEmptyValues: "bottom" }, formatter: result(name) })),
];
const rows = runs.map((run) => ({
  of: run, run: run.run, status: run.status,
  ...Object.fromEntries(report.settings.map((name) => [`setting ${name}`, run[name]])),
  ...Object.fromEntries(Object.keys(report.columns).map((name) => [name, run[name]])),
}));
const table = new Tabulator("#table", {
  data: rows, columns, layout: "fitDataFill", nestedFieldSeparator: false, index: "run",
  ...(runs.length > 20 ? { height: "60vh" } : {}),
  columnDefaults: { headerTooltip: true },
});

function showRuns() {
  drawCurves();
  drawVideos();
}

for (const [id, shown] of [["all", true], ["none", false]]) {
  find(id)?.addEventListener("click", () => {
    runs.forEach((run) => { run.shown = shown; });
    document.querySelectorAll("#table input[type=checkbox]").forEach((box) => { box.checked = shown; });
    showRuns();
  });
}

/* The curves */

const known = Object.entries(report.curves).filter(([name]) => runs.some((run) => run.curves[name][0].length));
known.forEach(([name, title]) => find("metric").append(make("option", { value: name, textContent: title })));
find("curves").hidden = known.length === 0;
let plot = null;

function drawCurves() {
  plot?.destroy();
  plot = null;
  const name = find("metric").value;
  const shown = runs.filter((run) => run.shown && run.curves[name]?.[0].length);
  if (!shown.length) return;
  const pairs = shown.map((run) => [run.curves[name], { label: title(run), stroke: run.colour, width: 1.75 }]);
  if (alone && name === "loss_smoothed") {
    pairs.unshift([shown[0].curves.loss, { label: "each step", stroke: shown[0].colour + "55", width: 1 }]);
  }
  const ink = getComputedStyle(document.body).color;
  const axis = { stroke: ink, grid: { stroke: ink, width: 0.08 }, ticks: { stroke: ink, width: 0.2 } };
  const series = pairs.map(([curve, look]) => ({ ...look, spanGaps: true, points: { show: curve[0].length < 40 } }));
  plot = new uPlot({
    width: find("plot").clientWidth, height: Math.min(420, Math.max(280, innerHeight * 0.45)),
    series: [{ label: "step" }, ...series],
    scales: { x: { time: false }, y: { distr: find("log").checked ? 3 : 1 } },
    axes: [{ ...axis, label: "step", labelSize: 22 }, { ...axis, size: 64 }],
    cursor: { focus: { prox: 24 }, points: { size: 7 } },
    focus: { alpha: 0.25 },
    hooks: { setSeries: [(_, index) => pointAt(index, pairs)], setCursor: [() => pointAt(focused, pairs)] },
  }, uPlot.join(pairs.map(([curve]) => curve)), find("plot"));
}

let focused = null;

/** Says what the cursor is at. */
function pointAt(index, pairs) {
  focused = index;
  const at = plot?.cursor.idx;
  const value = index != null && at != null ? plot.data[index]?.[at] : null;
  find("pointed").textContent =
    value == null ? "\u00a0" : `${pairs[index - 1][1].label}: ${significant(value)} at step ${plot.data[0][at]}`;
}

find("metric").addEventListener("change", drawCurves);
find("log").addEventListener("change", drawCurves);
dark.addEventListener("change", drawCurves);
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => plot?.setSize({ width: find("plot").clientWidth, height: plot.height }), 100);
});

/* The videos: loaded when they come into view, and played in step by one clock */

const prompts = [...new Set(runs.flatMap((run) => run.videos.map((video) => video.prompt)))];
const steps = [...new Set(runs.flatMap((run) => run.videos.map((video) => video.step)))].sort((a, b) => a - b);
const BASE = ["model.name", "seed", "validation.seed"]; // what the videos of step 0 depend on
const inView = new Set();
let playing = true;
let started = performance.now();

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      target.src = target.dataset.source;
      inView.add(target);
    } else if (target.src) {
      inView.delete(target);
      target.removeAttribute("src"); // gives its memory back
      target.load();
    }
  }
}, { rootMargin: "150px" });

function card(run, video, label) {
  const player = make("video", { muted: true, playsInline: true, preload: "auto", title: video.prompt });
  player.dataset.source = video.source;
  player.addEventListener("loadedmetadata", () => {
    find("grid").style.setProperty("--ratio", player.videoWidth / player.videoHeight);
  }, { once: true });
  watcher.observe(player);
  const box = make("div", { className: "card" }, player, make("p", { textContent: label }));
  if (run) box.style.setProperty("--colour", run.colour);
  return box;
}

/** What the videos of a prompt are conditioned on, each once. */
function conditionCards(prompt) {
  const videos = runs.filter((run) => run.shown).flatMap((run) => run.videos);
  const sources = new Set(videos.filter((video) => video.prompt === prompt && video.condition).map((video) => video.condition));
  return [...sources].map((source) => card(null, { source, prompt }, "condition"));
}

/** The base models' videos of a prompt: they are those of step 0, which all runs of a base and a seed share. */
function baseCards(prompt) {
  const bases = new Map();
  for (const run of runs.filter((one) => one.shown)) {
    const name = ["base model", ...BASE.filter((key) => run[key] != null).map((key) => `${key} ${run[key]}`)].join(", ");
    const videos = run.videos.filter((video) => video.step === 0 && video.prompt === prompt);
    if (videos.length && !bases.has(name)) bases.set(name, videos);
  }
  return [...bases].flatMap(([name, videos]) => videos.map((video) => card(null, video, name)));
}

function runCards(run, prompt, which) {
  const mine = run.videos.filter((video) => video.prompt === prompt && video.step > 0);
  const last = Math.max(...mine.map((video) => video.step));
  return mine
    .filter((video) => which === "all" || video.step === (which === "last" ? last : Number(which)))
    .map((video) => card(run, video, alone ? `step ${video.step}` : `${title(run)}, step ${video.step}`));
}

function drawVideos() {
  watcher.disconnect();
  inView.clear();
  const which = find("step").value;
  const asked = find("prompt").value;
  find("grid").replaceChildren(...prompts.filter((prompt) => !asked || prompt === asked).map((prompt) => {
    const cards = [...conditionCards(prompt), ...baseCards(prompt), ...runs.filter((run) => run.shown).flatMap((run) => runCards(run, prompt, which))];
    return make("div", { className: "row" }, make("h3", { textContent: prompt }), make("div", { className: "cards" }, ...cards));
  }));
}

/** Keeps all videos in view at the same moment. */
function keepInStep() {
  const ready = [...inView].filter((video) => video.readyState >= 2);
  const length = Math.max(...ready.map((video) => video.duration));
  if (playing && ready.length) {
    const moment = ((performance.now() - started) / 1000) % length;
    for (const video of ready) {
      const wanted = Math.min(moment, video.duration - 0.01);
      if (Math.abs(video.currentTime - wanted) > 0.15 && !video.seeking) video.currentTime = wanted;
      if (video.paused && wanted < video.duration - 0.02) video.play().catch(() => {});
    }
  }
  setTimeout(() => requestAnimationFrame(keepInStep), 60);
}

find("play").addEventListener("click", () => {
  playing = !playing;
  find("play").textContent = playing ? "Pause" : "Play";
  if (playing) started = performance.now();
  else inView.forEach((video) => video.pause());
});
find("size").addEventListener("input", () => find("grid").style.setProperty("--size", `${find("size").value}px`));

if (prompts.length) {
  find("videos").hidden = false;
  const after = steps.filter((step) => step > 0);
  [["last", "last of each"], ["all", "all"], ...after.map((step) => [step, step])].forEach(([value, title]) =>
    find("step").append(make("option", { value, textContent: title })));
  if (alone) find("step").value = "all";
  find("prompt").append(make("option", { value: "", textContent: `all ${prompts.length}` }));
  prompts.forEach((prompt) => find("prompt").append(make("option", { value: prompt, textContent: prompt })));
  find("step").addEventListener("change", drawVideos);
  find("prompt").addEventListener("change", drawVideos);
  keepInStep();
}

/* Where the time of a step goes */

function profileCell(name, value) {
  if (name === "part") return value;
  if (!value) return "";
  if (name === "share" || name === "mfu") return `${(100 * value).toFixed(1)}%`;
  if (name.endsWith("ms")) return value.toFixed(1);
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function profileTable({ columns, rows }) {
  const cells = (tag, texts) => texts.map((textContent) => make(tag, { textContent }));
  const head = make("tr", {}, ...cells("th", Object.values(columns)));
  const body = rows.map((row) => make("tr", {}, ...cells("td", Object.keys(columns).map((name) => profileCell(name, row[name])))));
  return make("div", { className: "wide" }, make("table", { className: "parts" }, head, ...body));
}

runs.filter((run) => run.profile).forEach((run) => {
  const { title: heading, picture, text, trace } = run.profile;
  const files = [[text, "table"], [trace, "trace, for ui.perfetto.dev"]].map(([href, textContent]) => make("a", { href, textContent }));
  find("profiles").hidden = false;
  find("profiles").append(make("details", { open: alone }, make("summary", { textContent: alone ? heading : `${title(run)}. ${heading}` }),
    make("img", { src: picture, alt: heading, loading: "lazy" }), profileTable(run.profile),
    make("p", { className: "hint" }, files[0], ", ", files[1])));
});

/* What failed, and how to run each again */

const bad = runs.filter((run) => ["failed", "lost", "stopped"].includes(run.status));
find("failures").hidden = bad.length === 0;
bad.forEach((run) => find("failures").querySelector("ul").append(
  make("li", {}, make("b", { className: run.status, textContent: `${title(run)}, ${run.status}` }), ": ",
    make("code", { textContent: run.message }))));

runs.forEach((run) => {
  const facts = Object.entries(run.details).map(([name, value]) => make("p", { textContent: `${name}: ${value}` }));
  const config = run.config ? make("p", {}, make("a", { href: run.config, textContent: "all settings (config.yaml)" })) : "";
  find("details").append(make("details", { open: alone }, make("summary", { textContent: title(run) }),
    make("pre", { textContent: run.command || "did not start" }), config, ...facts));
});

find("made").textContent = `as of ${report.made.replace("T", " ")}`;
table.on("tableBuilt", () => {
  showRuns();
  document.body.dataset.ready = "true";
});
