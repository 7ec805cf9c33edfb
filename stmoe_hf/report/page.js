// Draws the page's figures with plotly; the numbers stand in the page as JSON.
"use strict";
const told = JSON.parse(document.getElementById("told").textContent);
const quiet = { responsive: true, displayModeBar: false, scrollZoom: false };
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const element = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const clear = (name) => colour(name) + "00";
const scale = (name) => [[0, colour(name) + "18"], [0.25, colour(name) + "80"], [1, colour(name)]];
const themed = (layout) => {
  const axis = { gridcolor: colour("rule"), zerolinecolor: colour("rule"), linecolor: colour("rule") };
  const result = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  result.font = { color: colour("text"), size: 12, family: "system-ui, sans-serif" };
  result.hoverlabel = { font: { size: 13 } };
  for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) result[key] = { ...axis, ...layout[key] };
  return result;
};

// Charts come in the colours of a light page.
const light = { "#2f6fb0": "forecast", "#c8641b": "truth", "#8a94a3": "grey" };
const named = (key, value) => (key === "color" && light[value] ? colour(light[value]) : value);
const drawCharts = () => {
  for (const chart of told.charts) {
    const figure = JSON.parse(JSON.stringify(chart.figure), named);
    for (const trace of figure.data) if (trace.type === "heatmap") trace.colorscale = scale("forecast");
    Plotly.react(chart.id, figure.data, themed(figure.layout), quiet);
  }
};

const mapLayout = (height) => ({
  height: height, margin: { l: 52, r: 8, t: 8, b: 40 }, dragmode: false, hovermode: "closest",
  xaxis: { title: { text: told.axes[0] }, nticks: 5, zeroline: false },
  yaxis: { title: { text: told.axes[1] }, scaleanchor: "x", scaleratio: told.aspect, nticks: 5, zeroline: false },
});

// Streets below a map, where they were asked for: tiles of a server (Web Mercator, linear enough within one).
const column = (longitude, n) => Math.floor((longitude + 180) / 360 * n);
const row = (latitude, n) => Math.floor((1 - Math.asinh(Math.tan(latitude * Math.PI / 180)) / Math.PI) / 2 * n);
const corner = (x, y, n) => [360 * x / n - 180, Math.atan(Math.sinh(Math.PI * (1 - 2 * y / n))) * 180 / Math.PI];
const withStreets = (layout) => {
  if (!told.tiles) return layout;
  layout.xaxis.constrain = layout.yaxis.constrain = "domain";
  const [west, east] = layout.xaxis.range, [south, north] = layout.yaxis.range;
  const level = Math.min(18, Math.floor(Math.log2(360 * 2 / Math.max(east - west, (north - south) * told.aspect))));
  const n = 2 ** level;
  layout.images = [];
  for (let x = column(west, n); x <= column(east, n); x++) {
    for (let y = row(north, n); y <= row(south, n); y++) {
      const [left, top] = corner(x, y, n), [right, bottom] = corner(x + 1, y + 1, n);
      layout.images.push({
        source: told.tiles.replace("{z}", level).replace("{x}", x).replace("{y}", y), layer: "below", opacity: 0.6,
        xref: "x", yref: "y", x: left, y: top, sizex: right - left, sizey: top - bottom, sizing: "stretch",
      });
    }
  }
  return layout;
};

// The city: a map of people by square for the hour that the slider shows.
const filled = (part) => {
  const width = told.map.x.length;
  const rows = told.map.y.map(() => new Array(width).fill(null));
  part[0].forEach((square, i) => { rows[Math.floor(square / width)][square % width] = part[1][i]; });
  return rows;
};
const difference = (ours, theirs) =>
  ours.map((row, j) => row.map((value, i) => {
    if (value === null && theirs[j][i] === null) return null;
    return Math.round(100 * ((value || 0) - (theirs[j][i] || 0))) / 100;
  }));
const edges = (middles) => {
  const half = middles.length > 1 ? (middles[1] - middles[0]) / 2 : 1;
  return [middles[0] - half, middles[middles.length - 1] + half];
};
const drawCity = () => {
  const hour = Number(element("hour").value);
  element("hour-label").textContent = told.map.hours[hour];
  const forecast = filled(told.map.forecast[hour]);
  const maps = { forecast: forecast };
  if (told.map.truth) {
    maps.truth = filled(told.map.truth[hour]);
    maps.difference = difference(forecast, maps.truth);
  }
  for (const [name, z] of Object.entries(maps)) {
    const signed = name === "difference";
    const both = [[0, colour("truth")], [0.45, colour("truth") + "40"], [0.5, clear("grey")],
      [0.55, colour("forecast") + "40"], [1, colour("forecast")]];
    const trace = {
      type: "heatmap", x: told.map.x, y: told.map.y, z: z, zmin: signed ? -told.map.zmax : 0, zmax: told.map.zmax,
      colorscale: signed ? both : scale(name), xgap: 0.5, ygap: 0.5, hoverongaps: false,
      hovertemplate: signed ? "%{z:+.1f} people more forecast than there<extra></extra>"
        : "%{z:.1f} people<extra></extra>",
      colorbar: { orientation: "h", thickness: 8, y: -0.2, yanchor: "top", len: 0.9, nticks: 5, outlinewidth: 0 },
    };
    const layout = mapLayout(410);
    layout.margin.b = 84;
    if (told.map.truth) layout.xaxis.constrain = layout.yaxis.constrain = "domain";
    layout.xaxis.range = edges(told.map.x);
    layout.yaxis.range = edges(told.map.y);
    if (told.tiles) trace.opacity = 0.75;
    Plotly.react("map-" + name, [trace], themed(withStreets(layout)), quiet);
  }
};

// A person: cells of the past, and the paths of a day.
const clock = (hour) => {
  const minutes = Math.round(60 * hour);
  return String(Math.floor(minutes / 60)).padStart(2, "0") + ":" + String(minutes % 60).padStart(2, "0");
};
const kilometres = (a, b) => Math.hypot((a[0] - b[0]) * told.unit_km[0], (a[1] - b[1]) * told.unit_km[1]);
const path = (points, name, symbol, width) => ({
  x: points.map((p) => p[0]), y: points.map((p) => p[1]), text: points.map((p) => p[2]), name: name,
  mode: "lines+markers", line: { color: colour(name), width: width },
  marker: { color: colour(name), size: points.map((p) => p[3] || 7), symbol: symbol },
  hovertemplate: name + " %{text}<extra></extra>",
});
const drawPerson = () => {
  const person = told.people[Number(element("person").value)];
  const day = person.days[Number(element("day").value)];
  const known = day.records.filter((r) => r[4] !== null);
  const ours = day.records.map((r) =>
    [r[1], r[2], clock(r[0]) + (r[3] === null ? "" : ", probability " + Math.round(100 * r[3]) + " %") +
      (r[6] === null ? "" : ", " + r[6] + " km off"), r[3] === null ? 13 : 9 + 12 * r[3]]);
  const truth = known.map((r) => [r[4], r[5], clock(r[0])]);
  const others = day.records.flatMap((r) =>
    r[7].map((o) => [o[0], o[1], clock(r[0]) + ", probability " + Math.round(100 * o[2]) + " %", 4 + 12 * o[2]]));
  const traces = [];
  if (person.past.length) traces.push({
    x: person.past.map((p) => p[0]), y: person.past.map((p) => p[1]), customdata: person.past.map((p) => p[2]),
    mode: "markers", name: "earlier days", hovertemplate: "%{customdata} earlier records<extra></extra>",
    marker: { color: colour("grey"), size: person.past.map((p) => 4 + 1.6 * Math.sqrt(p[2])), opacity: 0.5 },
  });
  if (others.length) {
    const trace = path(others, "forecast", "circle-open", 1);
    traces.push({ ...trace, mode: "markers", name: "other cells that were probable", opacity: 0.45 });
  }
  traces.push(path(ours, "forecast", "circle", 5));
  if (truth.length) traces.push(path(truth, "truth", "diamond", 1.5));
  if (person.home) traces.push({
    x: [person.home[0]], y: [person.home[1]], mode: "markers+text", text: ["home"], textposition: "top center",
    showlegend: false, hovertemplate: "where they mostly were at night<extra></extra>",
    marker: { symbol: "square-open", size: 14, color: colour("text") },
  });
  const layout = mapLayout(480);
  const seen = [...ours, ...truth, ...(person.home ? [person.home] : [])];
  for (const [axis, i] of [["xaxis", 0], ["yaxis", 1]]) {
    const values = seen.map((p) => p[i]);
    const low = Math.min(...values), high = Math.max(...values);
    const margin = Math.max(0.15 * (high - low), 2.5 / told.unit_km[i]);
    layout[axis].range = [low - margin, high + margin];
  }
  layout.legend = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 };
  layout.margin.t = 56;
  Plotly.react("person-map", traces, themed(withStreets(layout)), quiet);
  const from = person.home || ours[0];
  const line = (points, hours, name, width, symbol) => ({
    x: hours, y: points.map((p) => kilometres(p, from)), name: name, mode: "lines+markers",
    line: { color: colour(name), width: width }, marker: { color: colour(name), size: width + 5, symbol: symbol },
    text: points.map((p) => p[2]), hovertemplate: name + " %{text}: %{y:.1f} km<extra></extra>",
  });
  const lines = [line(ours, day.records.map((r) => r[0]), "forecast", 5, "circle")];
  if (truth.length) lines.push(line(truth, known.map((r) => r[0]), "truth", 1.5, "diamond"));
  const away = person.home ? "km from home" : "km from the first cell";
  Plotly.react("person-time", lines, themed({
    height: 480, margin: { l: 52, r: 8, t: 56, b: 40 }, legend: layout.legend, dragmode: false,
    xaxis: { title: { text: "hour of the day" }, range: [-0.4, 24], tickvals: [0, 4, 8, 12, 16, 20, 24] },
    yaxis: { title: { text: away }, rangemode: "tozero" },
  }), quiet);
};
const offerDays = () => {
  const days = told.people[Number(element("person").value)].days;
  element("day").replaceChildren(...days.map((day, i) => new Option(day.label, i)));
  drawPerson();
};
const step = (id, by, then) => {
  const input = element(id), last = id === "day" ? input.options.length - 1 : Number(input.max);
  input.value = Math.min(last, Math.max(0, Number(input.value) + by));
  then();
};

const drawAll = () => { drawCharts(); drawCity(); if (told.people.length) drawPerson(); };
element("hour").addEventListener("input", drawCity);
element("hour-back").addEventListener("click", () => step("hour", -1, drawCity));
element("hour-on").addEventListener("click", () => step("hour", 1, drawCity));
if (told.people.length) {
  element("person").addEventListener("change", offerDays);
  element("day").addEventListener("change", drawPerson);
  element("day-back").addEventListener("click", () => step("day", -1, drawPerson));
  element("day-on").addEventListener("click", () => step("day", 1, drawPerson));
  offerDays();
}
dark.addEventListener("change", drawAll);
drawCharts();
drawCity();
