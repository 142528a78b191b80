// One concept: what its templates found on held-out images, and its scores over tokens, blocks and shots.
const TOKEN_LINES = { q: ["#0072B2", "circle"], k: ["#D55E00", "square"], v: ["#009E73", "triangle"], x1: ["#E69F00", "diamond"], xn: ["#CC79A7", "cross"], x2: ["#56B4E9", "ring"], q_rotated: ["#0072B2", "open diamond"], k_rotated: ["#D55E00", "open square"], x2_raw: ["#56B4E9", "open triangle"] };
const TRUTH_COLOUR = "#F0E442";
const FOUND_COLOUR = "#56B4E9";
const ALWAYS_POSITIVE = { accuracy: 0.5, precision: 0.5, recall: 1, f1: 2 / 3 };
const SVG = "http://www.w3.org/2000/svg";

class ConceptDialog {
  constructor(element, results) {
    this.element = element;
    this.results = results;
    this.content = element.querySelector(".content");
    this.metric = element.querySelector("select");
    element.querySelector("button.close").addEventListener("click", () => element.close());
    // A click on the backdrop has the dialog itself as its target; one on its content has an element inside.
    element.addEventListener("click", (event) => { if (event.target === element) element.close(); });
    element.addEventListener("close", () => { for (const address of this.addresses ?? []) URL.revokeObjectURL(address); });
    this.metric.addEventListener("change", () => this.drawScores());
    this.firstPatch = [];
    results.examples.reduce((sum, { rows, columns }) => { this.firstPatch.push(sum); return sum + rows * columns; }, 0);
  }

  open(concept, cell) {
    this.concept = concept;
    this.cell = cell;
    this.addresses = [];
    const { results } = this;
    this.element.querySelector("h2").textContent = results.concepts.name[concept];
    this.element.querySelector(".what").textContent = `${results.category(concept)}, label ${results.concepts.number[concept]}`;
    const scores = METRICS.map((metric) => make("div", {}, make("dt", {}, METRIC_TITLES[metric]), make("dd", {}, formatThousandths(results.score(metric, concept, cell)))));
    this.scores = make("div");
    this.content.replaceChildren(
      make("p", { class: "opened" }, `${results.cellTitle(cell)}:`), make("dl", { class: "facts" }, ...scores), ...this.mining(),
      ...this.masks(), make("h3", {}, "Scores"), make("label", {}, "Metric ", this.metric), this.scores, ...this.reasons(),
    );
    this.drawScores();
    if (!this.element.open) this.element.showModal();
    this.element.scrollTop = 0;
  }

  mining() {
    const entry = this.results.unminedIn(this.concept, this.cell);
    if (!entry) return [];
    const counts = `${plural(entry.positives, "positive")}, ${plural(entry.pool, "negative")} in the pool`;
    return [make("p", { class: "soft" }, `Mining had no choice: ${counts}, all of which every round takes.`)];
  }

  reasons() {
    const reasons = this.results.skipped.filter(({ concept }) => concept === this.concept);
    if (!reasons.length) return [];
    const sweeps = this.results.cells.sweep.names.length > 1;
    const lines = reasons.map(({ sweep, reason, rules, backbones }) => make("li", {}, `${sweeps ? `${sweep}: ` : ""}${rules} of ${backbones}: ${reason}`));
    return [make("h3", {}, "Skipped"), make("ul", {}, ...lines)];
  }

  masks() {
    const { results, concept } = this;
    if (!results.examples.length) return [];
    const own = results.examples.map((example, place) => ({ ...example, place })).filter((example) => example.concept === concept);
    if (!own.length) return [make("h3", {}, "Masks"), make("p", { class: "soft" }, "No image of this concept was kept.")];
    const groups = new Map();
    for (const example of own) {
      const key = `${example.kind} ${example.sweep} ${example.image} ${example.rows} ${example.columns}`;
      groups.set(key, [...(groups.get(key) ?? []), example]);
    }
    const most = [...groups.values()].filter(([{ kind }]) => kind === "coverage");
    const best = [...groups.values()].filter(([{ kind }]) => kind === "iou");
    const parts = [make("h3", {}, "Masks")];
    parts.push(make("p", { class: "soft" }, "Held-out images on the patch grid. Yellow: patches of the concept. Blue: patches a template finds; the yellow outline stays. Grey: patches that nobody annotated for this category, which do not count."));
    if (most.length) parts.push(make("h4", {}, "The image it covers most of"), ...most.map((group) => this.strip(group)));
    if (best.length) parts.push(make("h4", {}, "The images found best"), ...best.map((group) => this.strip(group)));
    return parts;
  }

  // One image: the truth, then what each template found.
  strip(group) {
    const strip = make("div", { class: "strip" });
    this.loadImage(group[0].image).then(async (image) => {
      this.patches ??= unpack("data-masks");
      const patches = await this.patches;
      const masks = group.map(({ place, rows, columns }) => patches.subarray(this.firstPatch[place], this.firstPatch[place] + rows * columns));
      strip.append(this.panel(image, group[0], masks[0], false));
      group.forEach((example, i) => strip.append(this.panel(image, example, masks[i], true)));
    });
    return strip;
  }

  async loadImage(number) {
    this.files ??= unpack("data-images", false);
    const files = await this.files;
    const begin = this.results.images.slice(0, number).reduce((sum, length) => sum + length, 0);
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([files.subarray(begin, begin + this.results.images[number])], { type: "image/jpeg" }));
    this.addresses.push(image.src);
    await image.decode();
    return image;
  }

  panel(image, example, mask, predicted) {
    const truth = (i) => mask[i] % 3 === 1;
    const found = (i) => mask[i] > 2;
    const places = Array.from(mask.keys());
    const counting = places.filter((i) => mask[i] % 3 !== 2);
    const right = counting.filter((i) => truth(i) && found(i)).length;
    const positives = counting.filter(truth).length;
    const wrong = counting.filter((i) => found(i) && !truth(i)).length;
    const name = this.results.concepts.name[this.concept];
    const shots = example.shots === null ? "" : `, ${plural(example.shots, "shot")}`;
    const title = `${example.backbone}, ${example.rule}${shots}`;
    const words = predicted
      ? `${title}, ${example.token} of block ${example.layer}: finds ${right} of the ${positives} patches of ${name} and ${wrong} others; intersection over union ${example.iou}.`
      : `The annotation: ${name} covers ${positives} of ${places.length} patches.`;
    const canvas = make("canvas", { role: "img", "aria-label": words, width: 320, height: Math.round((320 * image.height) / image.width) });
    drawMask(canvas, image, example, mask, predicted);
    const caption = predicted
      ? make("figcaption", {}, title, make("br"), `${example.token}, block ${example.layer}: IoU ${example.iou}`)
      : make("figcaption", {}, "annotation", make("br"), `${positives} of ${places.length} patches`);
    return make("figure", {}, canvas, caption);
  }

  drawScores() {
    const { results, cell } = this;
    const context = Object.fromEntries(["sweep", "task", "dataset", "evaluation"].map((name) => [name, results.of(name, cell)]));
    const here = { ...context, ...Object.fromEntries(["backbone", "layer", "rule", "shots"].map((name) => [name, results.of(name, cell)])) };
    const parts = [this.overTokens(here)];
    const layers = this.values("layer", { ...here, layer: undefined });
    if (layers.length > 1) parts.push(...this.over("Block", `Over blocks: ${here.backbone}, ${here.rule}${this.shotsOf(here)}`, layers, (layer) => ({ ...here, layer })));
    const { rule: opened, ...template } = here;
    for (const rule of this.values("rule", { ...template, shots: undefined })) {
      const shots = this.values("shots", { ...template, rule, shots: undefined }).filter((value) => value !== null);
      const title = `Over shots: ${here.backbone}, block ${here.layer}, ${rule}`;
      if (shots.length > 1 && (rule === opened || here.shots === null)) parts.push(...this.over("Shots", title, shots, (count) => ({ ...template, rule, shots: count })));
    }
    this.scores.replaceChildren(...parts);
  }

  shotsOf({ shots }) {
    return shots === null ? "" : `, ${plural(shots, "shot")}`;
  }

  // The values of a column among the cells that have these other values.
  values(column, fixed) {
    const { cells, numCells } = this.results;
    const codes = new Set();
    const wanted = Object.entries(fixed).filter(([, value]) => value !== undefined);
    for (let cell = 0; cell < numCells; cell++) {
      if (wanted.every(([name, value]) => this.results.of(name, cell) === value)) codes.add(cells[column].codes[cell]);
    }
    return [...codes].sort((a, b) => a - b).map((code) => cells[column].names[code]);
  }

  score(values, token) {
    const cell = this.results.find({ ...values, token });
    return { cell, value: cell < 0 ? ABSENT : this.results.score(this.metric.value, this.concept, cell) };
  }

  // Every sweep's backbones and rules: at the opened block where there is one, else at the last; shots alike.
  overTokens(here) {
    const rows = [];
    const sweeps = this.results.cells.sweep.names;
    for (const sweep of sweeps) {
      for (const backbone of this.values("backbone", { sweep, task: here.task, evaluation: here.evaluation })) {
        for (const rule of this.values("rule", { sweep, backbone, task: here.task, evaluation: here.evaluation })) {
          const fixed = { sweep, task: here.task, evaluation: here.evaluation, backbone, rule };
          const layers = this.values("layer", fixed), shots = this.values("shots", fixed);
          const row = { ...fixed, layer: layers.includes(here.layer) ? here.layer : layers.at(-1), shots: shots.includes(here.shots) ? here.shots : shots.at(-1) };
          const title = `${sweeps.length > 1 ? `${sweep}: ` : ""}${backbone}, block ${row.layer}, ${rule}${this.shotsOf(row)}`;
          rows.push([title, row]);
        }
      }
    }
    return this.grid("Over tokens, backbones and rules", "Template", rows);
  }

  over(head, title, values, place) {
    const rows = values.map((value) => [String(value), place(value)]);
    return [this.grid(title, head, rows), lineChart(this.tokens(), values, (token, i) => this.score(rows[i][1], token).value, head, title, this.metric.value)];
  }

  tokens() {
    return this.results.cells.token.names;
  }

  grid(title, head, rows) {
    const tokens = this.tokens();
    const lines = rows.map(([name, values]) => [name, tokens.map((token) => this.score(values, token))])
      .filter(([, scores]) => scores.some(({ value }) => value !== ABSENT));
    const body = lines.map(([name, scores]) => {
      const most = Math.max(...scores.map(({ value }) => (value === ABSENT ? -1 : value)));
      const cells = scores.map(({ cell, value }) => make("td", { class: value === most ? "most" : null, "aria-current": cell === this.cell ? "true" : null }, formatThousandths(value)));
      return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
    });
    const heads = [make("th", { scope: "col", class: "text" }, head), ...tokens.map((token) => make("th", { scope: "col" }, token))];
    const table = make("table", {}, make("caption", {}, title), make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table);
  }
}

function drawMask(canvas, image, { rows, columns }, mask, predicted) {
  const pen = canvas.getContext("2d");
  const width = canvas.width / columns, height = canvas.height / rows;
  const truth = (i) => mask[i] % 3 === 1;
  const found = (i) => mask[i] > 2;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  mask.forEach((value, i) => {
    // Whole pixels, so that neighbours neither overlap nor leave a gap.
    const [x, y, right, below] = [i % columns, Math.floor(i / columns), (i % columns) + 1, Math.floor(i / columns) + 1]
      .map((edge, k) => Math.round(edge * (k % 2 ? height : width)));
    const leftOut = value % 3 === 2;
    const colour = leftOut ? "rgb(128 128 128 / 72%)" : (predicted ? found(i) : truth(i)) ? `${predicted ? FOUND_COLOUR : TRUTH_COLOUR}8c` : "rgb(0 0 0 / 30%)";
    pen.fillStyle = colour;
    pen.fillRect(x, y, right - x, below - y);
  });
  if (predicted) outline(pen, (i) => found(i) && mask[i] % 3 !== 2, rows, columns, width, height, FOUND_COLOUR);
  outline(pen, truth, rows, columns, width, height, TRUTH_COLOUR);
}

// Lines between patches that are in and patches that are not, dark below light so that they show on any photograph.
function outline(pen, inside, rows, columns, width, height, colour) {
  const path = new Path2D();
  const isIn = (r, c) => r >= 0 && r < rows && c >= 0 && c < columns && inside(r * columns + c);
  for (let r = 0; r <= rows; r++) {
    for (let c = 0; c <= columns; c++) {
      if (isIn(r, c) !== isIn(r - 1, c)) { path.moveTo(c * width, r * height); path.lineTo((c + 1) * width, r * height); }
      if (isIn(r, c) !== isIn(r, c - 1)) { path.moveTo(c * width, r * height); path.lineTo(c * width, (r + 1) * height); }
    }
  }
  for (const [style, lineWidth] of [["#000000", 5], [colour, 2.5]]) {
    pen.strokeStyle = style;
    pen.lineWidth = lineWidth;
    pen.stroke(path);
  }
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A line for each token over ordered values; the table above it has the numbers.
function lineChart(tokens, values, thousandths, head, title, metric) {
  const [left, right, top, bottom, width, height] = [34, 12, 10, 30, 420, 220];
  const x = (i) => left + ((width - left - right) * (values.length > 1 ? i / (values.length - 1) : 0.5));
  const y = (share) => height - bottom - (height - top - bottom) * share;
  const words = `${METRIC_TITLES[metric]} ${title.toLowerCase()}, a line for each token; its numbers are in the table before it.`;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words, class: "chart" });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(svg("line", { x1: left, x2: width - right, y1: y(share), y2: y(share), class: "grid" }));
    chart.append(svg("text", { x: left - 5, y: y(share) + 3.5, "text-anchor": "end" }, share.toFixed(2)));
  }
  const reference = y(ALWAYS_POSITIVE[metric]);
  chart.append(svg("line", { x1: left, x2: width - right, y1: reference, y2: reference, class: "reference" }));
  const every = Math.ceil(values.length / 12);
  values.forEach((value, i) => { if (i % every === 0) chart.append(svg("text", { x: x(i), y: height - bottom + 14, "text-anchor": "middle" }, String(value))); });
  chart.append(svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, head));
  const legend = make("p", { class: "legend", "aria-hidden": "true" });
  for (const token of tokens) {
    const points = values.map((_, i) => [x(i), thousandths(token, i)]).filter(([, value]) => value !== ABSENT).map(([px, value]) => [px, y(value / 1000)]);
    if (!points.length) continue;
    const [colour, shape] = TOKEN_LINES[token];
    chart.append(svg("polyline", { points: points.map((point) => point.join(",")).join(" "), stroke: colour, class: "line" }));
    for (const [px, py] of points) chart.append(marker(shape, px, py, colour));
    legend.append(make("span", {}, svgMarker(shape, colour), token));
  }
  legend.append(make("span", {}, "- - always positive"));
  return make("div", { class: "charted" }, legend, chart);
}

function svgMarker(shape, colour) {
  return svg("svg", { viewBox: "0 0 14 14", width: "14", height: "14" }, marker(shape, 7, 7, colour));
}

function marker(shape, x, y, colour) {
  const shapes = {
    circle: `M ${x - 4} ${y} a 4 4 0 1 0 8 0 a 4 4 0 1 0 -8 0 z`,
    square: `M ${x - 3.5} ${y - 3.5} h 7 v 7 h -7 z`,
    triangle: `M ${x} ${y - 4.5} l 4.5 8 h -9 z`,
    diamond: `M ${x} ${y - 5} l 5 5 l -5 5 l -5 -5 z`,
    cross: `M ${x - 4} ${y - 4} l 8 8 M ${x + 4} ${y - 4} l -8 8`,
    ring: `M ${x - 3.5} ${y} a 3.5 3.5 0 1 0 7 0 a 3.5 3.5 0 1 0 -7 0 z`,
  };
  const open = shape === "cross" || shape === "ring" || shape.startsWith("open ");
  return svg("path", { d: shapes[shape.replace("open ", "")], fill: open ? "none" : colour, stroke: colour, "stroke-width": open ? 2 : 0.5 });
}
