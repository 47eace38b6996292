"use strict";
// Shows the summary that comes once a second, and the newest picture of the chosen stream.
const $ = (id) => document.getElementById(id);
const shown = new Map(); // key → {id, card, parts, points}
// chosen: at first, the stream that the address names. choices: the positions and channels of the chosen stream, null until they are known.
let chosen = decodeURIComponent(location.hash.slice(1)) || null, chosenId = null, choices = null, state = { daemons: [] }, etag = null, holding = false;
const MINUTES = 300, SIZES = [256, 512, 1024, 2048, 4096];

const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const number = (n) => n.toLocaleString("en", { maximumFractionDigits: n < 10 ? 2 : n < 100 ? 1 : 0 });
const bytes = (n) => {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (n >= 999.5 && unit < units.length - 1) { n /= 1000; unit++; }
  return `${number(n)} ${units[unit]}`;
};
const time = (s) => s < 1 ? `${number(s * 1000)} ms` : s < 120 ? `${number(s)} s` : s < 7200 ? `${number(s / 60)} min`
  : s < 172800 ? `${number(s / 3600)} h` : `${number(s / 86400)} days`;

const streams = () => state.daemons.flatMap((daemon) => daemon.streams);
const current = () => streams().find((stream) => stream.key === chosen);
// What tells a stream from an earlier one of its name.
const identity = (stream) => `${stream.id} ${stream.path}`;

function problems(stream) {
  const found = [];
  if (stream.error) found.push(["bad", stream.error.message, stream.error.remedy]);
  if (stream.paused) found.push(["warn", `paused: ${stream.paused.message}`, stream.paused.remedy]);
  if (stream.disk.warning) found.push(["warn", stream.disk.warning.message, stream.disk.warning.remedy]);
  if (stream.frames.lost) found.push(["bad", `${number(stream.frames.lost)} frames are lost`, ""]);
  if (stream.frames.dropped) found.push(["warn", `${number(stream.frames.dropped)} frames were dropped: the ring was full`, ""]);
  if (stream.state === "ACTIVE" && stream.disk.lasts_s !== null && stream.disk.lasts_s < 600)
    found.push(["warn", `the disk is full in ${time(stream.disk.lasts_s)}`, "Free space, or stop the stream"]);
  const usual = stream.throughput.frames_per_s;
  for (const source of stream.state === "ACTIVE" ? stream.sources : [])
    if (source.open && source.silent_s !== null && source.silent_s > Math.max(2, usual ? 10 / usual : 0))
      found.push(["warn", `no frame ${source.name ? `of ${source.name} ` : ""}for ${time(source.silent_s)}`, ""]);
  return found;
}

function facts(stream) {
  const { frames, ring, throughput, disk, recent } = stream;
  const isOpen = !stream.settled;
  const rate = isOpen && recent ? recent.slice(1) : [throughput.frames_per_s, throughput.bytes_per_s];
  const longest = Object.entries(stream.recent_waits).filter(([stage]) => !["producer", "ring"].includes(stage))
    .sort((a, b) => b[1].p50_ns - a[1].p50_ns)[0];
  const isSafe = stream.durability === "fsync", lag = frames.received - (isSafe ? frames.durable : frames.written + frames.gaps);
  const list = [
    ["frames", `${number(frames.received)}${frames.declared === null ? "" : ` of ${number(frames.declared)}`}`],
    [isSafe ? "safely on disk" : "written", `${number(isSafe ? frames.durable : frames.written)}${isOpen && lag > 0 ? `, ${number(lag)} behind` : ""}`],
    [isOpen ? "frames a second" : "average frames a second", number(rate[0])],
    [isOpen ? "bytes a second" : "average bytes a second", `${bytes(rate[1])}/s`],
    ["gaps", `${number(frames.gaps)}${frames.gaps ? ` (${number(frames.skipped)} skipped, ${number(frames.dropped)} dropped)` : ""}`],
    ["stored", `${bytes(throughput.stored_bytes)}${throughput.stored_bytes ? `, ${number(throughput.written_bytes / throughput.stored_bytes)} : 1` : ""}`],
  ];
  if (isOpen) list.push(["ring", `${number(ring.used)} of ${number(ring.slots)} slots`]);
  if (isOpen && longest) list.push(["frames wait in", `${longest[0]}, ${time(longest[1].p50_ns / 1e9)}`,
    Object.entries(stream.recent_waits).map(([stage, wait]) => `${stage}: ${time(wait.p50_ns / 1e9)}, at most ${time(wait.max_ns / 1e9)}`).join("\n")]);
  if (disk.free_bytes !== null) list.push(["disk", `${bytes(disk.free_bytes)} free${disk.lasts_s === null || !isOpen ? "" : `, ${time(disk.lasts_s)} left`}`]);
  return list;
}

function newCard(stream) {
  const card = make("article");
  const title = make("h2"), path = make("p", stream.path, "path"), list = make("dl"), notes = make("div");
  const meter = make("meter"), canvas = make("canvas");
  title.append(make("span", stream.key), make("span", "", "state"));
  card.append(title, path, notes, list, meter, canvas);
  card.tabIndex = 0;
  card.onclick = () => choose(stream.key);
  $("streams").append(card);
  return { id: identity(stream), at_s: 0, card, title, list, notes, meter, canvas, points: [] };
}

function draw(stream) {
  const before = shown.get(stream.key);
  if (before && before.id !== identity(stream)) { // another stream of this name
    shown.set(stream.key, newCard(stream));
    before.card.replaceWith(shown.get(stream.key).card);
  } else if (!before) shown.set(stream.key, newCard(stream));
  const parts = shown.get(stream.key), notes = problems(stream);
  parts.title.lastChild.textContent = stream.state + (stream.ended_by && stream.settled ? `: ${stream.ended_by}` : "");
  const kind = notes.some(([level]) => level === "bad") ? "bad" : notes.length ? "warn" : stream.settled ? "" : "active";
  parts.card.className = `${kind} ${stream.key === chosen ? "chosen" : ""}`;
  parts.notes.replaceChildren(...notes.map(([level, text, remedy]) => {
    const note = make("p", text, `problem ${level}`);
    if (remedy) note.append(make("small", remedy));
    return note;
  }));
  parts.list.replaceChildren(...facts(stream).map(([name, value, more]) => {
    const group = make("div");
    if (more) group.title = more;
    group.append(make("dt", name), make("dd", value));
    return group;
  }));
  parts.meter.hidden = stream.settled || !stream.ring.slots;
  Object.assign(parts.meter, { max: stream.ring.slots || 1, high: stream.ring.slots * 0.8, optimum: 0, value: stream.ring.used });
  parts.meter.title = "how full the ring is";
  plot(parts.canvas, parts.points);
}

function plot(canvas, points) {
  canvas.hidden = points.length < 2;
  if (canvas.hidden) return;
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
  if (!width) return;
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), most = Math.max(...points.map((point) => point[2]), 1);
  pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--good");
  pen.lineWidth = 1.5 * ratio;
  pen.beginPath();
  points.forEach((point, at) => {
    const x = width * (1 - (points.length - 1 - at) / MINUTES), y = height - (height - 4) * point[2] / most - 2;
    if (at) pen.lineTo(x, y); else pen.moveTo(x, y);
  });
  pen.stroke();
  canvas.title = `bytes a second over the last minutes; the most were ${bytes(most)}/s`;
}

function show(summary) {
  state = summary;
  $("daemons").textContent = summary.daemons.map((daemon) => {
    const which = summary.daemons.length > 1 ? `daemon ${daemon.number}: ` : "";
    if (daemon.version === undefined) return `${which}${daemon.error ? `${daemon.error.message}. ${daemon.error.remedy}` : "not asked yet"}`;
    const ready = daemon.writers.filter((writer) => writer.ready).length;
    const deaths = daemon.writer_deaths ? `, ${daemon.writer_deaths} died` : "";
    return `${which}${daemon.version}, up ${time(daemon.uptime_s)}, ${ready} writers${deaths}, rings ${bytes(daemon.memory.ring_bytes)} of ${bytes(daemon.memory.budget_bytes)}`;
  }).join(" · ");
  const all = streams(), keys = new Set(all.map((stream) => stream.key));
  for (const [key, parts] of shown) if (!keys.has(key)) { parts.card.remove(); shown.delete(key); }
  const stays = current();
  if (!stays) choose((all.find((stream) => stream.state === "ACTIVE") || all[0] || { key: null }).key);
  else if (identity(stays) !== chosenId) choose(chosen);
  const drawn = new Set(); // a name may be there twice: the newest stream of it comes first
  for (const stream of all) {
    if (drawn.has(stream.key)) continue;
    drawn.add(stream.key);
    draw(stream);
    const parts = shown.get(stream.key);
    if (!stream.recent || stream.settled || parts.at_s === stream.recent[0]) continue; // the event was about something else
    parts.at_s = stream.recent[0];
    parts.points.push(stream.recent);
    if (parts.points.length > MINUTES) parts.points.shift();
  }
  $("daemons").className = summary.daemons.some((daemon) => daemon.error) ? "gone" : "";
  $("empty").hidden = all.length > 0 || summary.daemons.some((daemon) => daemon.version === undefined);
  $("look").hidden = !all.length;
}

function choose(key) {
  const stream = streams().find((each) => each.key === key), id = stream ? identity(stream) : null;
  const isOther = key !== chosen || id !== chosenId;
  chosen = key;
  chosenId = id;
  for (const [name, parts] of shown) parts.card.classList.toggle("chosen", name === key);
  if (!isOther) return;
  etag = choices = null;
  $("picture").removeAttribute("src"); // it is of another stream
  $("caption").textContent = "";
  $("image").value = "";
  if (!stream) return;
  fill($("source"), stream.sources.map((source) => [source.source, source.name || source.source]));
  fill($("size"), [...SIZES.map((size) => [`size=${size}`, size]), ...levels(stream)], [$("size").value, "size=1024"]);
  offer({ positions: [], channels: [] });
}

// The resolutions that the dataset has, beside the sizes that fit a screen.
function levels(stream) {
  const side = (n, level) => Math.ceil(n / 2 ** level);
  return stream.levels < 2 ? [] : Array.from({ length: stream.levels },
    (_, level) => [`level=${level}`, `level ${level}: ${stream.frame_shape.map((n) => side(n, level)).join(" × ")}`]);
}

function offer({ positions, channels }) {
  $("image").max = positions.length - 1;
  $("image").parentElement.hidden = positions.length < 2;
  fill($("channel"), channels.length < 2 ? [] : [["", "newest"], ...channels.map((name, number) => [number, name])]);
}

// Chooses the first of the wanted values that there is.
function fill(select, options, wanted = []) {
  select.replaceChildren(...options.map(([value, text]) => Object.assign(make("option", text), { value })));
  const value = wanted.find((each) => options.some(([one]) => one === each));
  if (value !== undefined) select.value = value;
  select.parentElement.hidden = options.length < 2;
}

async function learn(stream) {
  const reply = await fetch(`/api/streams/${encodeURIComponent(stream.key)}/choices?source=${$("source").value || 0}`);
  const found = reply.ok ? await reply.json() : null;
  if (identity(stream) !== chosenId || !found) return;
  choices = found;
  offer(found);
}

function caption(stream, headers) {
  const place = (what, names, n) => !names || names.length < 2 ? ""
    : `, ${what} ${n}${names[n] === undefined || names[n] === n ? "" : ` (${names[n]})`}`;
  const where = place("position", choices?.positions, headers.get("X-Image")) + place("channel", choices?.channels, headers.get("X-Channel"));
  return `${stream.key}: frame ${number(Number(headers.get("X-Frame-Index")))}${where}, `
    + `${stream.frame_shape.join(" × ")} ${stream.dtype}, ${number(Number(headers.get("X-Low")))} to ${number(Number(headers.get("X-High")))}`;
}

async function look() {
  const stream = current();
  if (stream && !holding && !document.hidden) {
    const asked = new URLSearchParams(`source=${$("source").value || 0}&${$("size").value}`);
    for (const name of ["image", "channel", "low", "high"]) if ($(name).value !== "") asked.set(name, $(name).value);
    try {
      if (!choices) await learn(stream);
      const reply = await fetch(`/api/streams/${encodeURIComponent(stream.key)}/frame.png?${asked}`,
        { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store" });
      const blob = reply.status === 200 ? await reply.blob() : null;
      if (identity(stream) !== chosenId) etag = null; // it comes too late: another stream was chosen
      else if (blob) {
        etag = reply.headers.get("ETag");
        const address = URL.createObjectURL(blob);
        const before = $("picture").src;
        $("picture").src = address;
        if (before.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(before), 1000);
        $("caption").textContent = caption(stream, reply.headers);
        $("picture").alt = $("caption").textContent;
      } else if (reply.status !== 304) {
        const told = await reply.json().catch(() => null);
        $("caption").textContent = told && told.error ? told.error.message : `no picture (${reply.status})`;
      }
    } catch { /* the line above says that the server is gone */ }
  }
  setTimeout(look, 250);
}

function cycle(select) {
  if (select.options.length < 2) return;
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  etag = null;
}

function nextPosition() {
  const field = $("image"), next = field.value === "" ? 0 : Number(field.value) + 1;
  if (!field.parentElement.hidden) field.value = next > Number(field.max) ? "" : next;
  etag = null;
}

function hold() {
  holding = !holding;
  $("hold").setAttribute("aria-pressed", holding);
}

$("hold").onclick = hold;
for (const id of ["source", "image", "channel", "size", "low", "high"]) $(id).onchange = () => { etag = null; };
document.onkeydown = (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|BUTTON)$/.test(event.target.tagName)) return;
  const keys = [...shown.keys()], at = keys.indexOf(chosen);
  const done = {
    ArrowDown: () => choose(keys[Math.min(at + 1, keys.length - 1)]),
    ArrowUp: () => choose(keys[Math.max(at - 1, 0)]),
    Enter: () => event.target.tagName === "ARTICLE" && event.target.click(),
    s: () => cycle($("source")),
    p: nextPosition,
    c: () => cycle($("channel")),
    l: () => cycle($("size")),
    a: () => { $("low").value = $("high").value = ""; etag = null; },
    f: () => document.fullscreenElement ? document.exitFullscreen() : $("picture").requestFullscreen(),
    " ": hold,
  }[event.key];
  if (done) { event.preventDefault(); done(); }
};

async function begin() {
  const events = new EventSource("/api/events");
  events.onopen = () => { $("link").textContent = ""; $("link").className = ""; };
  events.onerror = () => { $("link").textContent = "omewd web does not answer"; $("link").className = "gone"; };
  let before = null;
  try { before = await (await fetch("/api/history")).json(); } catch { /* shown by onerror */ }
  events.onmessage = (event) => {
    show(JSON.parse(event.data));
    for (const [key, points] of Object.entries(before || {})) if (shown.has(key)) shown.get(key).points = points;
    before = null;
  };
  look();
}
begin();
