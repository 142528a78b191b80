// Starts the concept table and its dialog from the data inside the page. Without it the rest of the page stays whole.
const ABSENT = 65535;
const METRICS = ["accuracy", "precision", "recall", "f1"];
const METRIC_TITLES = { accuracy: "Accuracy", precision: "Precision", recall: "Recall", f1: "F1" };

// Packed by page_data.py: base64, deflated unless said otherwise.
async function unpack(id, deflated = true) {
  const binary = atob(document.getElementById(id).textContent.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  if (!deflated) return bytes;
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}

// An element with attributes and children; text becomes text, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const formatThousandths = (value) => (value === ABSENT ? "\u2013" : (value / 1000).toFixed(3));
const formatCount = (count) => count.toLocaleString("en-US");
const plural = (count, noun) => `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;

// Cells are numbers; a column of them is its distinct names in order and a code for each cell.
class Results {
  constructor(record, packed) {
    Object.assign(this, record);
    this.numConcepts = record.concepts.name.length;
    this.numCells = record.cells.token.codes.length;
    const half = packed.length / 2;
    this.scores = new Uint16Array(half);
    for (let i = 0; i < half; i++) this.scores[i] = packed[i] | (packed[half + i] << 8);
  }

  score(metric, concept, cell) {
    return this.scores[(METRICS.indexOf(metric) * this.numConcepts + concept) * this.numCells + cell];
  }

  of(column, cell) {
    const { names, codes } = this.cells[column];
    return names[codes[cell]];
  }

  // The first cell with these values, or -1.
  find(values) {
    const codes = Object.entries(values).map(([name, value]) => [this.cells[name].codes, this.cells[name].names.indexOf(value)]);
    for (let cell = 0; cell < this.numCells; cell++) {
      if (codes.every(([column, code]) => column[cell] === code)) return cell;
    }
    return -1;
  }

  category(concept) {
    const { names, codes } = this.concepts.category;
    return names[codes[concept]];
  }

  // The entry of a concept whose pool left mining no choice in a cell of hyperplanes, or undefined.
  unminedIn(concept, cell) {
    if (!this.of("rule", cell).startsWith("hyperplane")) return undefined;
    if (!this.unminedOf) {
      this.unminedOf = new Map();
      for (const entry of this.unmined) this.unminedOf.set(entry.concept, [...(this.unminedOf.get(entry.concept) ?? []), entry]);
    }
    const [sweep, backbone] = [this.of("sweep", cell), this.of("backbone", cell)];
    return this.unminedOf.get(concept)?.find((entry) => entry.sweep === sweep && entry.backbones.includes(backbone));
  }

  cellTitle(cell) {
    const shots = this.of("shots", cell);
    const rule = this.of("rule", cell) + (shots === null ? "" : `, ${plural(shots, "shot")}`);
    return `${this.of("token", cell)} of block ${this.of("layer", cell)}, ${this.of("backbone", cell)}, ${rule}`;
  }
}

async function start() {
  const section = document.getElementById("concepts");
  const said = section.querySelector("[role=status]");
  try {
    const record = JSON.parse(new TextDecoder().decode(await unpack("data-record")));
    const results = new Results(record, await unpack("data-scores"));
    const dialog = new ConceptDialog(document.getElementById("concept-dialog"), results);
    new ConceptTable(section, results, (concept, cell) => dialog.open(concept, cell));
    section.querySelector(".needs-script").hidden = true;
    section.querySelector(".with-script").hidden = false;
  } catch (error) {
    said.textContent = "";
    section.querySelector(".needs-script").textContent = `The concept table cannot be shown by this browser (${error.message}). Its rows are in results.parquet.`;
  }
}

start();
