"use strict";
const BOARD = JSON.parse(document.getElementById("board").textContent);
const at = (id) => document.getElementById(id);
const make = (tag, facts = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), facts);
  element.append(...children);
  return element;
};
const rowOf = (values) => Object.fromEntries(BOARD.columns.map((name, i) => [name, values[i]]));
for (const table of BOARD.tables) table.rows = table.rows.map(rowOf);

const points = (value, digits = 2) => (value === null ? "–" : (100 * value).toFixed(digits));
const signed = (value) => (value > 0 ? "+" : "") + points(value);
const whole = (value) => (value === null ? "–" : Math.round(value).toLocaleString("en"));
const short = (value) => (value === null ? "–" : value.toPrecision(3).replace("e+", "e"));
const sparsity = (row) => +(100 * (1 - row.density)).toPrecision(row.emergent ? 4 : 10);

const COLUMNS = [
  { key: "sparsity", name: "sparsity %", of: sparsity, text: (r) => sparsity(r) + (r.density_std ? ` ± ${points(r.density_std)}` : "") },
  { key: "method", name: "method", left: true, of: (r) => r.method },
  { key: "mean", name: "accuracy %", of: (r) => r.mean, text: (r) => points(r.mean) + (r.std === null ? "" : ` ± ${points(r.std)}`) },
  { key: "interval", name: "95 % interval", of: (r) => r.low, text: (r) => (r.low === null ? "–" : `${points(Math.max(r.low, 0), 1)} to ${points(Math.min(r.high, 1), 1)}`) },
  { key: "rank", name: "rank", of: (r) => r.rank, text: (r) => r.rank ?? "–" },
  { key: "to_dense", name: "to dense", of: (r) => r.to_dense, text: (r) => gap(r, "dense") },
  { key: "to_rigl", name: "to RigL", of: (r) => r.to_rigl, text: (r) => gap(r, "rigl") },
  { key: "n", name: "seeds", of: (r) => r.n, text: (r) => seeds(r) },
  { key: "nonzero", name: "non-zeros", of: (r) => r.nonzero, text: (r) => whole(r.nonzero) },
  { key: "macs", name: "inference MACs", of: (r) => r.macs, text: (r) => short(r.macs) },
  { key: "flops", name: "training FLOPs", of: (r) => r.flops, text: (r) => short(r.flops) },
  { key: "seconds", name: "seconds", of: (r) => r.seconds, text: (r) => short(r.seconds) },
  { key: "tuning", name: "tuning trials", of: (r) => r.trials, text: (r) => r.trials || "none" },
];

function gap(row, name) {
  const value = row[`to_${name}`];
  return value === null ? "–" : signed(value) + (row[`p_${name}`] !== null && row[`p_${name}`] < 0.05 ? "*" : "");
}

function seeds(row) {
  const parts = [row.failed ? `${row.n} of ${row.n + row.failed}` : `${row.n}`];
  if (row.collapsed) parts.push(`${row.collapsed} collapsed`);
  if (row.n && row.verified === row.n) parts.push("✓");
  return parts.join(", ");
}

const AXES = {
  sparsity: { title: "sparsity (logit scale)", of: (r) => (r.density < 1 ? Math.log10((1 - r.density) / r.density) : null) },
  nonzero: { title: "non-zero weights", of: (r) => r.nonzero, log: true },
  flops: { title: "training FLOPs", of: (r) => r.flops, log: true },
  macs: { title: "inference MACs", of: (r) => r.macs, log: true },
};
const TICKS = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999];

// What is shown, all of it in the address, so that a link brings another reader to the same view.
const DEFAULTS = { table: "", density: "", find: "", sort: "", down: "", x: "sparsity", published: "1", hide: "" };
let state = { ...DEFAULTS };
function readAddress() {
  state = { ...DEFAULTS, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  if (!BOARD.tables.some((t) => t.id === state.table)) state.table = BOARD.tables[0].id;
  if (!(state.x in AXES)) state.x = "sparsity";
}
function change(patch) {
  state = { ...state, ...patch };
  const told = Object.entries(state).filter(([key, value]) => value !== (key === "table" ? BOARD.tables[0].id : DEFAULTS[key]));
  history.replaceState(null, "", told.length ? `#${new URLSearchParams(told)}` : location.pathname + location.search);
  render();
}

const hidden = () => new Set(state.hide.split(",").filter(Boolean));
const tableNow = () => BOARD.tables.find((t) => t.id === state.table);
const methodsOf = (table) => [...new Set(table.rows.map((r) => r.method))].sort();

function rowsNow() {
  const gone = hidden();
  const wanted = state.find.toLowerCase();
  const kept = tableNow().rows.filter(
    (r) =>
      !gone.has(r.method) &&
      (!state.density || r.density === 1 || Math.abs(r.density / Number(state.density) - 1) < 1e-6) &&
      r.method.toLowerCase().includes(wanted),
  );
  const column = COLUMNS.find((c) => c.key === state.sort);
  if (!column) return kept;
  const turn = state.down ? -1 : 1;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  const value = (row) => column.of(row);
  return [...kept].sort((a, b) =>
    value(a) === null || value(b) === null ? (value(a) === null) - (value(b) === null) : turn * compare(value(a), value(b)),
  );
}

function fillControls() {
  const table = tableNow();
  at("table").replaceChildren(...BOARD.tables.map((t) => make("option", { value: t.id, textContent: t.title })));
  at("table").value = state.table;
  const densities = [...new Set(table.rows.filter((r) => !r.emergent && r.density < 1).map((r) => r.density))].sort((a, b) => b - a);
  at("density").replaceChildren(
    make("option", { value: "", textContent: "all" }),
    ...densities.map((d) => make("option", { value: String(d), textContent: `${+(100 * (1 - d)).toPrecision(10)} % sparse` })),
  );
  at("density").value = densities.map(String).includes(state.density) ? state.density : "";
  at("find").value = state.find;
  at("x").value = state.x;
  at("published").checked = state.published === "1";
  const gone = hidden();
  at("methods").replaceChildren(
    make("legend", { textContent: "methods" }),
    ...methodsOf(table).map((name) => {
      const tick = make("input", { type: "checkbox", checked: !gone.has(name), value: name });
      tick.addEventListener("change", () => {
        const now = hidden();
        tick.checked ? now.delete(name) : now.add(name);
        change({ hide: [...now].join(",") });
        at("methods").querySelector(`input[value="${CSS.escape(name)}"]`)?.focus();
      });
      return make("label", { className: "tick" }, tick, name);
    }),
  );
}

// A comparison that no row of a table has is no column of it.
const columnsNow = () => COLUMNS.filter(
  (c) => !["rank", "to_dense", "to_rigl"].includes(c.key) || tableNow().rows.some((r) => c.of(r) !== null),
);

function renderTable(rows) {
  const columns = columnsNow();
  const head = make("tr", {}, ...columns.map((c) => {
    const sorted = state.sort === c.key;
    const button = make("button", { type: "button", textContent: c.name + (sorted ? (state.down ? " ▾" : " ▴") : "") });
    button.addEventListener("click", () => {
      const first = c.left || c.key === "rank" ? "" : "1";
      change(sorted ? { down: state.down ? "" : "1" } : { sort: c.key, down: first });
      at("rows").querySelectorAll("th button")[columns.indexOf(c)].focus();
    });
    const cell = make("th", { scope: "col", className: c.left ? "left" : "" }, button);
    cell.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
    return cell;
  }));
  const shown = rows.slice(0, at("more").dataset.all ? Infinity : 500);
  const entries = shown.map((r) => ({ row: r, density: r.density }));
  if (state.published === "1") for (const c of claimsNow()) entries.push({ claim: c, density: c.density });
  if (!state.sort) entries.sort((a, b) => b.density - a.density || Boolean(a.claim) - Boolean(b.claim));
  let before = null;
  const body = entries.map(({ row, claim, density }) => {
    const apart = !state.sort && before !== null && before !== density ? " apart" : "";
    before = density;
    if (claim) return claimLine(claim, apart, columns);
    return make("tr", { className: (row.best ? "best" : "") + apart }, ...columns.map((c) => {
      const cell = make("td", { className: c.left ? "left" : "" });
      cell.append(c.key === "method" && row.page ? make("a", { href: row.page, textContent: row.method }) : String((c.text ?? c.of)(row)));
      return cell;
    }));
  });
  at("rows").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  at("count").textContent = `${rows.length} of ${tableNow().rows.length} rows`;
  at("more").hidden = shown.length === rows.length;
}

function claimsNow() {
  const gone = hidden();
  return tableNow().claims.filter(
    (c) => !gone.has(c.method) && c.method.toLowerCase().includes(state.find.toLowerCase()) &&
      (!state.density || c.density === 1 || Math.abs(c.density / Number(state.density) - 1) < 0.25),
  );
}

function claimLine(c, apart, columns) {
  const texts = {
    sparsity: +(100 * (1 - c.density)).toPrecision(4), method: `${c.method}, published: ${c.source} (${c.tag})`,
    mean: c.mean.toFixed(2) + (c.std === null ? "" : ` ± ${c.std.toFixed(2)}`), n: c.n ?? "?",
  };
  const cells = columns.map((k) => make("td", { className: k.left ? "left" : "", textContent: texts[k.key] ?? "" }));
  return make("tr", { className: "published" + apart }, ...cells);
}

function renderCurve(rows) {
  const axis = AXES[state.x];
  const names = methodsOf(tableNow());
  const traces = [];
  for (const name of names) {
    const of = rows.filter((r) => r.method === name && r.mean !== null && axis.of(r) !== null).sort((a, b) => axis.of(a) - axis.of(b));
    if (!of.length || name === "dense") continue;
    const colour = colourOf(name, names);
    const x = of.map(axis.of);
    const half = (r, turn) => 100 * (r.mean + turn * (r.std ?? 0));
    if (of.length > 1) {
      traces.push({
        x: [...x, ...[...x].reverse()], y: [...of.map((r) => half(r, 1)), ...[...of].reverse().map((r) => half(r, -1))],
        fill: "toself", fillcolor: faded(colour), line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: name,
        mode: "lines", type: "scatter",
      });
    }
    traces.push({
      x, y: of.map((r) => 100 * r.mean), name, legendgroup: name, mode: "lines+markers", type: "scatter",
      line: { color: colour }, marker: { color: colour, size: 8 },
      error_y: { type: "data", array: of.map((r) => 100 * (r.std ?? 0)), visible: of.length === 1, color: colour },
      text: of.map((r) => `${name}<br>${sparsity(r)} % sparse, ${whole(r.nonzero)} non-zeros<br>${points(r.mean)}${r.std === null ? "" : " ± " + points(r.std)} %, n = ${r.n}`),
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  const shapes = [];
  const dense = rows.find((r) => r.density === 1 && r.mean !== null);
  if (dense) {
    const line = { color: COLOURS.dense, dash: "dash", width: 1 };
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: 100 * dense.mean, y1: 100 * dense.mean, line });
    traces.push({ x: [null], y: [null], mode: "lines", line, name: `dense ${points(dense.mean)} %`, type: "scatter" });
  }
  const claims = state.published === "1" && state.x === "sparsity" ? claimsNow().filter((c) => c.density < 1) : [];
  if (claims.length) {
    traces.push({
      x: claims.map(AXES.sparsity.of), y: claims.map((c) => c.mean), name: "published", mode: "markers", type: "scatter",
      marker: { color: COLOURS.dense, symbol: "diamond-open", size: 9 },
      text: claims.map((c) => `${c.method}, published<br>${c.mean} % (${c.source})`), hovertemplate: "%{text}<extra></extra>",
    });
  }
  const xaxis = state.x === "sparsity"
    ? { tickvals: TICKS.map((s) => Math.log10(s / (1 - s))), ticktext: TICKS.map((s) => `${+(100 * s).toFixed(2)}`), tickangle: 0 }
    : { type: "log" };
  const drawn = traces.filter((t) => t.hoverinfo !== "skip" && t.x[0] !== null).length;
  at("curve-says").textContent = drawn
    ? `Accuracy against ${axis.title}: ${names.filter((n) => rows.some((r) => r.method === n)).join(", ")}. The same numbers are in the table below.`
    : "No row has what this axis shows.";
  return draw("curve", traces, layoutOf(axis.title + (state.x === "sparsity" ? ", %" : ""), "test accuracy, %", { xaxis, shapes }));
}

function renderProfiles() {
  const held = BOARD.profiles;
  if (!held) return;
  const names = Object.keys(held.methods);
  const traces = names.map((name) => ({
    x: held.points, y: held.methods[name], name, mode: "lines", line: { shape: "hv", color: colourOf(name, names) }, type: "scatter",
  }));
  draw("profiles", traces, layoutOf("points behind the best of the cell", "share of cells", { yaxis: { range: [0, 1.02] } }));
}

function renderCriticalDifference() {
  const held = BOARD.critical;
  if (!held) return;
  const names = held.methods;
  const traces = [{
    x: held.mean_ranks, y: names.map(() => 0), text: names, mode: "markers+text", textposition: "top center", type: "scatter",
    marker: { size: 10, color: names.map((name) => colourOf(name, names)) }, hovertemplate: "%{text}: mean rank %{x:.2f}<extra></extra>",
  }];
  const shapes = held.groups.map(([first, last], i) => ({
    type: "line", x0: held.mean_ranks[first] - 0.03, x1: held.mean_ranks[last] + 0.03, y0: -0.25 - 0.2 * i, y1: -0.25 - 0.2 * i,
    line: { width: 5, color: "#888888" },
  }));
  const range = [names.length + 0.3, 0.7];
  const yaxis = { visible: false, range: [-0.5 - 0.2 * shapes.length, 0.8] };
  draw("critical", traces, layoutOf("mean rank (1 is best); a bar joins methods that are not told apart", "", { xaxis: { range }, yaxis, shapes }));
}

function download(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}
function plainRows() {
  const { title, data, model } = tableNow();
  return rowsNow().map((r) => ({ data, model, table: title, ...r }));
}
function asCsv(rows) {
  const names = Object.keys(rows[0] ?? {});
  const cell = (v) => (/[",\n]/.test(String(v ?? "")) ? `"${String(v).replaceAll('"', '""')}"` : String(v ?? ""));
  return [names.join(","), ...rows.map((r) => names.map((n) => cell(r[n])).join(","))].join("\n") + "\n";
}

function render() {
  fillControls();
  at("convention").textContent = tableNow().title;
  at("remarks").replaceChildren(...tableNow().remarks.map((text) => make("li", { textContent: text })));
  const rows = rowsNow();
  renderTable(rows);
  renderCurve(rows);
}

at("table").addEventListener("change", (e) => change({ table: e.target.value, density: "", hide: "", sort: "", down: "" }));
at("density").addEventListener("change", (e) => change({ density: e.target.value }));
at("find").addEventListener("input", (e) => change({ find: e.target.value }));
at("x").addEventListener("change", (e) => change({ x: e.target.value }));
at("published").addEventListener("change", (e) => change({ published: e.target.checked ? "1" : "0" }));
at("filters").addEventListener("submit", (e) => e.preventDefault());
at("reset").addEventListener("click", () => change({ ...DEFAULTS, table: state.table }));
at("csv").addEventListener("click", () => download("board.csv", "text/csv", asCsv(plainRows())));
at("json").addEventListener("click", () => download("board.json", "application/json", JSON.stringify(plainRows(), null, 1)));
at("more").addEventListener("click", (e) => { e.target.dataset.all = "1"; render(); });
window.addEventListener("hashchange", () => { readAddress(); render(); });
whenLightChanges(() => { render(); renderProfiles(); renderCriticalDifference(); });
readAddress();
render();
renderProfiles();
renderCriticalDifference();
