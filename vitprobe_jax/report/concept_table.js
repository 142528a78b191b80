// Tens of thousands of rows, of which only those in view are elements. A row is a concept in a cell that it has scores in.
const SPARE_ROWS = 6; // rendered above and below what is in view
const LONGEST_SCROLL = 8e6; // pixels: browsers cap the height of an element somewhere beyond
const TITLES = {
  sweep: "Sweep", task: "Task", dataset: "Data set", backbone: "Backbone", layer: "Block", token: "Token",
  rule: "Rule", shots: "Shots", evaluation: "Counted",
};

// Rows ordered by small whole keys; equal keys keep their order.
function countingSort(rows, keys, numKeys, descending) {
  const starts = new Uint32Array(numKeys + 1);
  for (const row of rows) starts[(descending ? numKeys - 1 - keys[row] : keys[row]) + 1]++;
  for (let i = 0; i < numKeys; i++) starts[i + 1] += starts[i];
  const sorted = new Uint32Array(rows.length);
  for (const row of rows) sorted[starts[descending ? numKeys - 1 - keys[row] : keys[row]]++] = row;
  return sorted;
}

class ConceptTable {
  constructor(section, results, open) {
    this.results = results;
    this.open = open;
    this.status = section.querySelector("[role=status]");
    this.form = section.querySelector("form");
    this.scroller = section.querySelector(".rows");
    this.table = section.querySelector(".rows table");
    this.search = this.form.querySelector("input[type=search]");
    this.active = -1; // place of the chosen row among those that match
    this.sortedBy = "f1";
    this.descending = true;
    this.collectRows();
    this.columns = this.describeColumns();
    this.buildFilters();
    this.buildTable();
    this.setRowHeight();
    this.listen();
    this.update();
  }

  collectRows() {
    const { numConcepts, numCells, scores } = this.results;
    const f1 = METRICS.indexOf("f1") * numConcepts * numCells;
    const concepts = [], cells = [];
    for (let concept = 0; concept < numConcepts; concept++) {
      for (let cell = 0; cell < numCells; cell++) {
        if (scores[f1 + concept * numCells + cell] !== ABSENT) {
          concepts.push(concept);
          cells.push(cell);
        }
      }
    }
    this.rowConcept = Uint32Array.from(concepts);
    this.rowCell = Uint32Array.from(cells);
  }

  describeColumns() {
    const { concepts, cells } = this.results;
    const collator = new Intl.Collator("en", { numeric: true });
    const byName = concepts.name.map((_, i) => i).sort((a, b) => collator.compare(concepts.name[a], concepts.name[b]) || a - b);
    const rank = new Uint32Array(byName.length);
    byName.forEach((concept, i) => { rank[concept] = i; });
    const ofConcept = (codes) => Uint32Array.from(this.rowConcept, (concept) => codes[concept]);
    const ofMetric = (metric) => {
      const score = (row) => this.results.score(metric, this.rowConcept[row], this.rowCell[row]);
      const keys = Uint32Array.from(this.rowConcept, (_, row) => score(row));
      return { name: metric, title: METRIC_TITLES[metric], keys, numKeys: 1001, text: (row) => formatThousandths(score(row)), longest: ["0.000"], number: true, descends: true };
    };
    const ofCells = Object.entries(cells).filter(([, { names }]) => names.length > 1).map(([name, { names, codes }]) => ({
      name, title: TITLES[name], keys: Uint32Array.from(this.rowCell, (cell) => codes[cell]), numKeys: names.length,
      text: (row) => String(names[codes[this.rowCell[row]]] ?? "\u2013"), longest: names, number: name === "layer" || name === "shots",
    }));
    // What tells rows apart stands first, so that it is in view on a phone.
    const first = ["token", "rule", "shots", "layer"];
    return [
      { name: "name", title: "Concept", keys: ofConcept(rank), numKeys: rank.length, text: (row) => concepts.name[this.rowConcept[row]], longest: concepts.name },
      ofMetric("f1"),
      ...first.flatMap((name) => ofCells.filter((column) => column.name === name)),
      ...ofCells.filter(({ name }) => !first.includes(name)),
      { name: "category", title: "Category", keys: ofConcept(concepts.category.codes), numKeys: concepts.category.names.length, text: (row) => this.results.category(this.rowConcept[row]), longest: concepts.category.names },
      ...["accuracy", "precision", "recall"].map(ofMetric),
      ...this.miningColumn(),
    ];
  }

  // Marks hyperplanes whose negative pool left mining no choice; no column where there are none.
  miningColumn() {
    const { results } = this;
    if (!results.unmined.length) return [];
    const keys = Uint32Array.from(this.rowConcept, (concept, row) => (results.unminedIn(concept, this.rowCell[row]) ? 1 : 0));
    return [{ name: "mining", title: "Mining", keys, numKeys: 2, text: (row) => (keys[row] ? "no choice" : ""), longest: ["no choice"], descends: true }];
  }

  buildFilters() {
    const place = this.form.querySelector(".filters");
    const add = (name, title, names, chosen = "") => {
      const select = make("select", { id: `filter-${name}`, name });
      select.append(make("option", { value: "" }, "all"));
      names.forEach((value, code) => {
        if (value !== null) select.append(make("option", { value: String(code), selected: String(code) === chosen }, String(value)));
      });
      place.append(make("label", { for: select.id }, make("span", {}, title), select));
    };
    const { category } = this.results.concepts;
    if (category.names.length > 1) add("category", "Category", category.names);
    for (const [name, { names }] of Object.entries(this.results.cells)) {
      const last = String(names.length - 1);
      const chosen = { shots: last, evaluation: "0" }[name];
      if (names.filter((value) => value !== null).length > 1) add(name, TITLES[name], names, chosen);
    }
  }

  buildTable() {
    const widths = this.columns.map(({ title, longest }) => Math.min(26, Math.max(title.length + 4.5, ...longest.map((text) => String(text ?? "").length + 4))))
      .map((letters) => `min(${letters}ch, 36vw)`);
    const heads = this.columns.map((column) => {
      const button = make("button", { type: "button", "data-column": column.name }, column.title, make("span", { "aria-hidden": "true" }));
      return make("th", { scope: "col", role: "columnheader", class: column.number ? null : "text" }, button);
    });
    this.body = make("tbody");
    this.above = make("td", { colspan: this.columns.length });
    this.below = make("td", { colspan: this.columns.length });
    const spacer = (cell) => make("tbody", { "aria-hidden": "true", class: "spacer" }, make("tr", {}, cell));
    this.table.append(
      make("colgroup", {}, ...widths.map((width) => make("col", { style: `width: ${width}` }))),
      make("thead", {}, make("tr", { "aria-rowindex": "1" }, ...heads)),
      spacer(this.above), this.body, spacer(this.below),
    );
    this.table.style.width = `calc(${widths.join(" + ")})`;
    this.table.setAttribute("aria-colcount", this.columns.length);
    this.pool = [];
  }

  makeRow() {
    const cells = this.columns.map(({ number, name }) => make(name === "name" ? "th" : "td", { class: number ? null : "text", scope: name === "name" ? "row" : null }));
    this.pool.push(make("tr", {}, ...cells));
  }

  listen() {
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.update());
    this.form.addEventListener("reset", () => requestAnimationFrame(() => this.update()));
    this.table.querySelector("thead").addEventListener("click", (event) => {
      const name = event.target.closest("button")?.dataset.column;
      if (name) this.sortBy(name);
    });
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (!row) return;
      this.table.focus({ preventScroll: true });
      this.activate(Number(row.dataset.place), false);
      this.openActive();
    });
    this.table.addEventListener("keydown", (event) => this.press(event));
    this.table.addEventListener("focus", () => {
      if (this.active < 0 && this.matches.length) this.activate(this.firstInView(), false);
    });
    this.scroller.addEventListener("scroll", () => {
      this.frame ??= requestAnimationFrame(() => { this.frame = null; this.render(); });
    });
    new ResizeObserver(() => { this.setRowHeight(); this.render(); }).observe(this.scroller);
  }

  sortBy(name) {
    const column = this.columns.find((one) => one.name === name);
    this.descending = this.sortedBy === name ? !this.descending : Boolean(column.descends);
    this.sortedBy = name;
    this.update();
  }

  update() {
    const started = performance.now();
    this.match();
    this.active = -1;
    this.scroller.scrollTop = 0;
    this.render();
    this.milliseconds = performance.now() - started;
    this.table.dataset.milliseconds = this.milliseconds.toFixed(1);
    for (const head of this.table.querySelectorAll("thead th")) {
      const sorted = head.firstChild.dataset.column === this.sortedBy;
      if (sorted) head.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const all = this.rowConcept.length;
    const some = this.matches.length === all ? plural(all, "row") : `${formatCount(this.matches.length)} of ${plural(all, "row")}`;
    this.status.textContent = `${some} of ${plural(this.numMatchingConcepts, "concept")}`;
  }

  // The rows that match the filters, sorted.
  match() {
    const { concepts, cells, numConcepts, numCells } = this.results;
    const wanted = Object.fromEntries(new FormData(this.form));
    const text = this.search.value.trim().toLowerCase();
    const codes = concepts.category.codes;
    const conceptFits = Uint8Array.from({ length: numConcepts }, (_, i) => (
      (!wanted.category || codes[i] === Number(wanted.category)) && concepts.name[i].toLowerCase().includes(text)));
    const cellFits = Uint8Array.from({ length: numCells }, (_, i) => Object.entries(cells).every(([name, column]) => (
      !wanted[name] || column.codes[i] === Number(wanted[name]) || (name === "shots" && column.names[column.codes[i]] === null))));
    const rows = new Uint32Array(this.rowConcept.length);
    const seen = new Uint8Array(numConcepts);
    let count = 0;
    for (let row = 0; row < rows.length; row++) {
      if (conceptFits[this.rowConcept[row]] && cellFits[this.rowCell[row]]) {
        rows[count++] = row;
        seen[this.rowConcept[row]] = 1;
      }
    }
    const column = this.columns.find((one) => one.name === this.sortedBy);
    this.matches = countingSort(rows.subarray(0, count), column.keys, column.numKeys, this.descending);
    this.numMatchingConcepts = seen.reduce((sum, one) => sum + one, 0);
    this.table.setAttribute("aria-rowcount", count + 1);
  }

  // Whole pixels, and set rather than measured: far down, positions have lost the precision that a measurement needs.
  setRowHeight() {
    this.rowHeight = Math.ceil(2.1 * parseFloat(getComputedStyle(document.documentElement).fontSize));
    this.table.style.setProperty("--row-height", `${this.rowHeight}px`);
  }

  // Pixels of a row, of all rows, and of the scroll that stands for them: the same unless there are too many.
  measure() {
    const height = this.rowHeight;
    const whole = this.matches.length * height;
    return { height, whole, scroll: Math.min(whole, LONGEST_SCROLL), view: this.scroller.clientHeight };
  }

  firstInView() {
    const { height, whole, scroll, view } = this.measure();
    const share = scroll > view ? this.scroller.scrollTop / (scroll - view) : 0;
    const top = whole === scroll ? this.scroller.scrollTop : share * (whole - view);
    return Math.max(0, Math.min(this.matches.length - 1, Math.ceil(top / height)));
  }

  render() {
    const { height, scroll, view } = this.measure();
    const first = Math.max(0, this.firstInView() - SPARE_ROWS);
    const last = Math.min(this.matches.length, first + Math.ceil(view / height) + 2 * SPARE_ROWS);
    while (this.pool.length < last - first) this.makeRow();
    const shown = this.pool.slice(0, Math.max(0, last - first));
    shown.forEach((element, i) => this.fill(element, first + i));
    if (this.body.childElementCount !== shown.length) this.body.replaceChildren(...shown);
    const whole = this.matches.length * height;
    const above = whole === scroll ? first * height : Math.max(0, this.scroller.scrollTop - SPARE_ROWS * height);
    this.above.style.height = `${above}px`;
    this.below.style.height = `${Math.max(0, scroll - above - shown.length * height)}px`;
    const here = this.active >= first && this.active < last;
    if (here) this.table.setAttribute("aria-activedescendant", `row-${this.active}`);
    else this.table.removeAttribute("aria-activedescendant");
  }

  fill(element, place) {
    const row = this.matches[place];
    element.id = `row-${place}`;
    element.dataset.place = place;
    element.setAttribute("aria-rowindex", place + 2);
    element.setAttribute("aria-selected", place === this.active);
    this.columns.forEach(({ text }, i) => { element.cells[i].textContent = text(row); });
  }

  press(event) {
    if (event.target !== this.table || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.measure().height) - 2);
    const last = this.matches.length - 1;
    const moves = { ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page, Home: 0, End: last };
    if (event.key in moves && last >= 0) this.activate(Math.max(0, Math.min(last, moves[event.key])), true);
    else if ((event.key === "Enter" || event.key === " ") && this.active >= 0) this.openActive();
    else return;
    event.preventDefault();
  }

  activate(place, intoView) {
    this.active = place;
    if (intoView) {
      const { height, whole, scroll, view } = this.measure();
      const head = this.table.tHead.offsetHeight;
      const top = place * height;
      if (whole !== scroll) this.scroller.scrollTop = (Math.max(0, top - view / 2) / (whole - view)) * (scroll - view);
      else if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
      else if (top + height + head > this.scroller.scrollTop + view) this.scroller.scrollTop = top + height + head - view;
    }
    this.render();
  }

  openActive() {
    const row = this.matches[this.active];
    this.open(this.rowConcept[row], this.rowCell[row]);
  }
}
