// Charts of `data`, a comparison: the errors of operators, tokens and logits.

const WIDTH = 1160, LEFT = 70, ROW = 22, DECADES = 5, HEIGHT = 110;
const SVG = "http://www.w3.org/2000/svg";
const tip = document.getElementById("tip");

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function picture(id, width, height) {
  const svg = element("svg", { class: "chart", viewBox: `0 -8 ${width} ${height + 8}` }, document.getElementById(id));
  if (width > WIDTH) svg.style.width = `${width}px`;
  return svg;
}

// NaN and infinity are null.
const written = error => error === null ? "∞" : error === 0 ? "0" : error.toExponential(1);
const full = number => typeof number === "number" ? +number.toPrecision(6) : String(number);

const mixed = (name, share) =>
  `color-mix(in srgb, var(--${name}) ${(100 * share).toFixed(1)}%, transparent)`;

// Paler with every decade below the tolerance; red beyond it.
function colour(error) {
  if (error === null) return mixed("danger", 0.9);
  if (error === 0) return "transparent";
  const decades = data.tolerance > 0 ? Math.log10(error / data.tolerance) : Infinity;
  if (decades > 0) return mixed("danger", Math.min(0.85, 0.45 + 0.13 * decades));
  return mixed("accent", 0.04 + 0.66 * Math.max(0, 1 + decades / DECADES) ** 2);
}

function hover(shape, text) {
  shape.addEventListener("mousemove", event => {
    tip.textContent = text();
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4) + "px";
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
  });
  shape.addEventListener("mouseleave", () => { tip.style.display = "none"; });
}

function details(section, operator, kind) {
  const figures = operator[kind];
  const at = figures.token === null ? "" :
    `\nat token ${figures.token} ${JSON.stringify(data.texts[figures.token])}, column ${figures.column}: ` +
    `${full(figures.found)} for ${full(figures.expected)}`;
  const odd = figures.not_finite.some(Boolean) ?
    `\nNaN or infinite: ${figures.not_finite[0]} of the first side's, ${figures.not_finite[1]} of the second's` : "";
  return `${section.name} · ${operator.name}\nerror ${written(figures.error)}\n` +
    `max ${written(figures.max_error)}, RMS error ${written(figures.rms_error)}, ` +
    `of an RMS of ${written(figures.rms)}: ${written(figures.relative)}${at}${odd}`;
}

function key() {
  const svg = picture("key", WIDTH, 32), size = 60, count = DECADES + 3;
  for (let i = 0; i < count; i++) {
    const error = data.tolerance * 10 ** (i - DECADES + 1);  // at its right end
    element("rect", { class: "cell", x: LEFT + i * size, y: 0, width: size, height: 12,
      fill: colour(error * (i < DECADES ? 0.999 : 0.5)) }, svg);
    if (i < count - 1)
      element("text", { x: LEFT + (i + 1) * size, y: 26, "text-anchor": "middle", class: "soft" }, svg, written(error));
  }
  element("text", { x: LEFT + count * size + 12, y: 10, class: "soft" }, svg,
    `the error: green up to ${written(data.tolerance)} (${data.source}), red beyond`);
}

// Layers from top to bottom, their operators from left to right.
function operators(id, kind) {
  const most = Math.max(...data.sections.map(section => section.operators.length));
  const inner = data.sections.find(section => section.name.startsWith("layer"));
  const size = (WIDTH - LEFT) / most;
  const svg = picture(id, WIDTH, ROW * data.sections.length + 20);
  inner.operators.forEach((operator, i) => element("text",
    { x: LEFT + (i + 0.5) * size, y: 12, "text-anchor": "middle", class: "soft" }, svg, operator.name));
  data.sections.forEach((section, row) => {
    const y = 20 + row * ROW;
    element("text", { x: LEFT - 8, y: y + 15, "text-anchor": "end" }, svg, section.name);
    section.operators.forEach((operator, i) => {
      const error = operator[kind].error;
      const cell = element("rect", { class: "cell", x: LEFT + i * size, y, width: size, height: ROW,
        fill: colour(error) }, svg);
      hover(cell, () => details(section, operator, kind));
      const name = section.name.startsWith("layer") ? "" : `${operator.name}  `;
      element("text", { class: "value", x: LEFT + (i + 0.5) * size, y: y + 15, "text-anchor": "middle" }, svg,
        name + (operator[kind].not_finite.some(Boolean) ? "NaN" : written(error)));
    });
  });
}

const count = data.texts.length;
const step = Math.max(3, Math.min(60, (WIDTH - LEFT) / count));
const wide = LEFT + step * count;

function names(svg, y) {
  if (step < 9) {  // too narrow for texts: token numbers, one in every so many
    const every = Math.ceil(60 / step);
    for (let i = 0; i < count; i += every)
      element("text", { x: LEFT + (i + 0.5) * step, y: y + 14, "text-anchor": "middle", class: "soft" }, svg, i);
    return;
  }
  data.texts.forEach((text, i) => {
    const x = LEFT + (i + 0.5) * step + 4;
    const shown = text.replaceAll("\n", "⏎").trim() || "␣";
    element("text", { x, y: y + 10, "text-anchor": "end", transform: `rotate(-60 ${x} ${y + 10})`, class: "soft" },
      svg, shown.length > 12 ? shown.slice(0, 11) + "…" : shown);
  });
}

// Slanted texts reach as far down and to the left as they are long: the picture grows to hold them.
function fit(svg, width) {
  const box = svg.getBBox(), left = Math.min(0, box.x - 4);
  svg.setAttribute("viewBox", `${left} -8 ${width - left} ${box.y + box.height + 14}`);
  if (svg.style.width) svg.style.width = `${width - left}px`;
}

// Layers from top to bottom, tokens from left to right.
function tokens(id, kind) {
  const row = Math.max(8, Math.min(ROW, 500 / data.sections.length));
  const bottom = row * data.sections.length;
  const svg = picture(id, Math.max(WIDTH, wide), bottom + 58);
  data.sections.forEach((section, i) => {
    if (row >= 11 || i % 4 === 0 || i === data.sections.length - 1)
      element("text", { x: LEFT - 8, y: (i + 0.5) * row + 4, "text-anchor": "end" }, svg, section.name);
    section.tokens[kind].forEach((error, token) => {
      const cell = element("rect", { class: step < 6 ? "" : "cell", x: LEFT + token * step, y: i * row, width: step, height: row,
        fill: colour(error) }, svg);
      hover(cell, () => `${section.name}, token ${token} ${JSON.stringify(data.texts[token])}\n${written(error)}`);
    });
  });
  names(svg, bottom);
  fit(svg, Math.max(WIDTH, wide));
}

// Bars on a logarithmic scale; values below its lower end have none.
function bars(id, values) {
  const sizes = values.filter(value => value !== null && value > 0).map(Math.log10);
  const high = Math.ceil(Math.max(-8, ...sizes) + 1e-9), low = Math.min(high - 3, Math.floor(Math.min(high - 3, ...sizes)));
  const svg = picture(id, Math.max(WIDTH, wide), HEIGHT + 58);
  const height = value => value === null ? HEIGHT : value > 0 ? HEIGHT * Math.max(0.01, (Math.log10(value) - low) / (high - low)) : 0;
  element("path", { class: "axis", d: `M${LEFT} 0V${HEIGHT}H${wide}` }, svg);
  const every = Math.ceil((high - low) / 4);
  for (let decade = high; sizes.length && decade >= low; decade -= every)
    element("text", { x: LEFT - 8, y: HEIGHT * (high - decade) / (high - low) + 4, "text-anchor": "end", class: "soft" }, svg, `1e${decade}`);
  if (values.every(value => value === 0))
    element("text", { x: LEFT + 12, y: HEIGHT - 8, class: "soft" }, svg, "none");
  const { expected, found, margin } = data.logits.positions;
  values.forEach((value, i) => {
    const differs = value === null || expected[i] !== found[i], tall = height(value);
    element("rect", { x: LEFT + (i + 0.1) * step, y: HEIGHT - tall, width: step * 0.8, height: tall,
      fill: differs ? "var(--danger)" : mixed("accent", 0.7) }, svg);
    const column = element("rect", { x: LEFT + i * step, y: 0, width: step, height: HEIGHT, fill: "transparent" }, svg);
    hover(column, () => `after token ${i} ${JSON.stringify(data.texts[i])}: ${written(value)}\n` + (differs ?
      `likeliest: ${found[i]} for ${expected[i]}, which led by ${written(margin[i])}` :
      `likeliest on both sides: ${expected[i]}, ahead by ${written(margin[i])}`));
  });
  names(svg, HEIGHT);
  fit(svg, Math.max(WIDTH, wide));
}

document.getElementById("head").textContent = data.head.join("\n");
document.getElementById("verdict").textContent = data.verdict;
document.getElementById("verdict").classList.toggle("differs", !data.agree);
document.getElementById("drift").textContent = data.drift;
key();
for (const kind of ["own", "accumulated"]) {
  operators(kind, kind);
  tokens(`${kind}-tokens`, kind);
}
bars("divergence", data.logits.positions.divergence);
bars("largest", data.logits.positions.max_error);
