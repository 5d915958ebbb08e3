"use strict";
// Plotly travels compressed; the browser unpacks it when the first chart is drawn.
let unpacked = null;
function plotly() {
  unpacked ??= (async () => {
    const bytes = Uint8Array.from(atob(PLOTLY), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(new Blob([await new Response(stream).text()], { type: "text/javascript" }));
    await new Promise((resolve, reject) => {
      const script = document.createElement("script");
      Object.assign(script, { src: url, onload: resolve, onerror: reject });
      document.head.append(script);
    });
    return window.Plotly;
  })();
  return unpacked;
}

const COLOURS = { east: "#d1495b", rigl: "#2e86ab", set: "#3b9c5a", static: "#8a8a8a", dst: "#9a60b4", dense: "#888888" };
const OTHERS = ["#e08d1b", "#00a6a6", "#b5651d", "#6a7fdb", "#c44fa0", "#7a9e2f", "#5c8a8a", "#b08d57"];
function colourOf(name, names) {
  return COLOURS[name] ?? OTHERS[names.filter((n) => !(n in COLOURS)).indexOf(name) % OTHERS.length];
}

function faded(colour) {
  return colour + "26";
}

function layoutOf(x, y, more = {}) {
  const style = getComputedStyle(document.documentElement);
  const [ink, paper, line] = ["--ink", "--paper", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    paper_bgcolor: paper, plot_bgcolor: paper, font: { color: ink, family: "system-ui, sans-serif" },
    margin: { l: 55, r: 10, t: 30, b: 50 }, hovermode: "closest", legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    ...more, xaxis: { ...axis, title: { text: x }, ...more.xaxis }, yaxis: { ...axis, title: { text: y }, ...more.yaxis },
  };
}

async function draw(id, traces, layout) {
  const place = document.getElementById(id);
  if (place === null) return;
  const library = await plotly();
  await library.react(place, traces, layout, { responsive: true, displaylogo: false });
  place.dataset.drawn = String(Number(place.dataset.drawn ?? 0) + 1);
}

function whenLightChanges(redraw) {
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
