"use strict";
const ROW = JSON.parse(document.getElementById("row").textContent);
function render() {
  for (const chart of ROW.charts) {
    const traces = chart.lines.map((line) => ({ x: line.x, y: line.y, name: line.name, mode: "lines", type: "scatter" }));
    draw(chart.id, traces, layoutOf("step", chart.unit, chart.log ? { yaxis: { type: "log" } } : {}));
  }
  if (ROW.layers) {
    const bars = [{ x: ROW.layers.map((l) => l[0]), y: ROW.layers.map((l) => 100 * l[1]), type: "bar", marker: { color: "#2e86ab" } }];
    draw("layer-chart", bars, layoutOf("", "density, %", { yaxis: { type: "log" } }));
  }
}
whenLightChanges(render);
render();
