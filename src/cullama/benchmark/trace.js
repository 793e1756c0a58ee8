// Charts of `data`, what an engine did: requests, sequences, blocks and time, along the time.

const WIDTH = 1160, LEFT = 50, HEIGHT = 150;
const SVG = "http://www.w3.org/2000/svg";
const steps = data.steps, requests = data.requests;
const end = Math.max(1e-6, ...steps.map(s => s.start + s.ms / 1e3),
  ...requests.map(r => r.stages.at(-1)[1]));
const x = seconds => LEFT + (WIDTH - LEFT) * seconds / end;
const tip = document.getElementById("tip");

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

function chart(id, height) {
  const svg = element("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${height + 20}` }, document.getElementById(id));
  element("path", { class: "axis", d: `M${LEFT} 0V${height}H${WIDTH}` }, svg);
  for (let i = 0; i <= 8; i++) {
    const label = element("text", { x: x(end * i / 8), y: height + 15,
      "text-anchor": i === 8 ? "end" : "middle" }, svg);
    label.textContent = `${(end * i / 8).toFixed(end < 8 ? 2 : 1)} s`;
  }
  return svg;
}

function scale(svg, most, height) {
  for (const share of [0, 0.5, 1]) {
    const label = element("text", { x: LEFT - 5, y: height * (1 - share) + 4, "text-anchor": "end" }, svg);
    label.textContent = most * share < 10 ? +(most * share).toFixed(1) : Math.round(most * share);
  }
  return value => height * (1 - value / most);
}

function key(id, names) {
  for (const [color, name] of names) {
    const box = document.createElement("i");
    box.style.background = `var(--${color})`;
    document.getElementById(id).append(box, name);
  }
}

// Bands on top of each other: `fields` of each step, from the bottom up.
function bands(id, fields) {
  const svg = chart(id, HEIGHT);
  const most = Math.max(1, ...steps.map(s => fields.reduce((sum, f) => sum + s[f[1]], 0)));
  const y = scale(svg, most, HEIGHT);
  const under = steps.map(() => 0);
  for (const [color, field] of fields) {
    let up = "", back = "";
    steps.forEach((step, i) => {
      const from = x(step.start), to = x(step.start + step.ms / 1e3);
      const low = y(under[i]), high = y(under[i] += step[field]);
      up += `L${from} ${high}L${to} ${high}`;
      back = `L${to} ${low}L${from} ${low}` + back;
    });
    element("path", { d: "M" + (up + back).slice(1) + "Z", fill: `var(--${color})` }, svg);
  }
  return hoverable(svg);
}

function hoverable(svg) {
  svg.addEventListener("mousemove", event => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width * WIDTH - LEFT) / (WIDTH - LEFT) * end;
    const step = steps.findLast(s => s.start <= at) ?? steps[0];
    if (step) show(event, Object.entries(step).map(([k, v]) => `${k}: ${v}`).join("\n"));
  });
  svg.addEventListener("mouseleave", () => { tip.style.display = "none"; });
  return svg;
}

function show(event, text) {
  tip.textContent = text;
  tip.style.display = "block";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
}

function lives() {
  const row = Math.max(2, Math.min(14, 900 / Math.max(1, requests.length)));
  const height = row * requests.length, svg = chart("requests", height);
  requests.forEach((request, number) => {
    request.stages.forEach(([stage, from], i) => {
      if (stage === "unscheduled") return;  // it has ended
      const to = request.stages[i + 1]?.[1] ?? end;
      const bar = element("rect", { x: x(from), y: row * number, height: row * 0.8,
        width: Math.max(0.5, x(to) - x(from)), fill: `var(--${stage})` }, svg);
      bar.addEventListener("mousemove", event => show(event,
        `request ${number}: prompt ${request.prompt}, answer ${request.answer} tokens\n` +
        `${stage} ${from.toFixed(3)} – ${to.toFixed(3)} s`));
      bar.addEventListener("mouseleave", () => { tip.style.display = "none"; });
    });
  });
}

function total(field) { return steps.reduce((sum, step) => sum + step[field], 0); }

document.getElementById("description").textContent = data.description;
document.getElementById("totals").textContent =
  `${requests.length} requests, ${total("drawn")} tokens in ${end.toFixed(2)} s ` +
  `(${(total("drawn") / end).toFixed(1)} a second), ${steps.length} steps, ` +
  `${total("preemptions")} preemptions, ${total("cached_tokens")} prompt tokens found in the cache`;
key("stages", [["waiting", "waiting"], ["prefill", "prefill"], ["decode", "decode"],
  ["backpressured", "backpressured: too many unread tokens"]]);
key("crowd-key", [["decode", "decode"], ["prefill", "prefill"], ["waiting", "waiting"]]);
key("blocks-key", [["referenced", "referenced"], ["cached", "cached: can be found again"], ["free", "free"]]);
lives();
bands("crowd", [["decode", "decodes"], ["prefill", "prefills"], ["waiting", "waiting"]]);
bands("blocks", [["referenced", "referenced"], ["cached", "cached"], ["free", "free"]]);
bands("time", [["prefill", "ms"]]);
