"use strict";
(() => {
  const NEIGHBOURS = 16;
  const TEN = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#d4af1f", "#b07aa1", "#ff9da7", "#9c755f", "#8a9099"];
  const TWO = ["#4e79a7", "#e8590c"];
  // seen on light paper and on dark; what is ordinary is quiet
  const RAMP = [[0, "#93a1b1"], [0.35, "#e3b341"], [1, "#c8321f"]];
  const THREE = ["#4e79a7", "#59a14f", "#f28e2b"];

  const at = (id) => document.getElementById(id);
  const content = JSON.parse(at("content").textContent);
  const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)).buffer);
  const embedding = floats(content.embedding), plane = floats(content.plane);
  const n = content.ids.length, k = content.shares.length;
  const label = content.categories.label, split = content.categories.split;
  const classes = label.kinds.length > 1;
  const state = { colour: "label", x: "map-0", y: "map-1", chosen: null, near: [], match: null };

  // --- neighbours: cosine of the whole vectors ---
  const unit = new Float32Array(embedding.length);
  for (let i = 0; i < n; i++) {
    let square = 0;
    for (let j = 0; j < k; j++) square += embedding[i * k + j] ** 2;
    const length = Math.sqrt(square) || 1;
    for (let j = 0; j < k; j++) unit[i * k + j] = embedding[i * k + j] / length;
  }

  function nearest(i) {
    const near = [];
    for (let other = 0; other < n; other++) {
      let cosine = 0;
      for (let j = 0; j < k; j++) cosine += unit[i * k + j] * unit[other * k + j];
      if (other !== i) near.push({ index: other, cosine });
    }
    return near.sort((a, b) => b.cosine - a.cosine || a.index - b.index).slice(0, NEIGHBOURS);
  }

  // --- elements ---
  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function picture(i) {
    const { columns, width, height } = content.sheet;
    const canvas = element("canvas", { width, height });
    canvas.getContext("2d").drawImage(
      at("sheet"), (i % columns) * width, Math.floor(i / columns) * height, width, height, 0, 0, width, height);
    return canvas;
  }

  const number = (value) => (value === null ? "unknown" : Number(value.toPrecision(3)).toString());

  function facts(i) {
    const list = element("dl", { className: "facts" });
    const row = (name, value) => list.append(element("dt", {}, name), element("dd", {}, value));
    row("row", `#${content.ids[i]}`);
    if (content.files) row("file", content.files[i]);
    for (const [name, { kinds, values }] of Object.entries(content.categories)) row(name, kinds[values[i]]);
    for (const [name, { values }] of Object.entries(content.measures)) row(name, number(values[i]));
    return list;
  }

  // --- the panel: the chosen image and its neighbours ---
  function choose(i) {
    state.chosen = i;
    state.near = nearest(i);
    const same = state.near.filter(({ index }) => label.values[index] === label.values[i]).length;
    const grid = element("div", { className: "neighbours" });
    for (const { index, cosine } of state.near) {
      const kind = content.files && !classes ? content.files[index] : label.kinds[label.values[index]];
      const button = element("button", {
        type: "button", className: label.values[index] === label.values[i] ? "" : "other",
        title: `row #${content.ids[index]}, ${kind}, ${split.kinds[split.values[index]]}: cosine ${cosine.toFixed(3)}`,
        onclick: () => choose(index),
      }, picture(index), element("span", {}, kind), element("span", {}, cosine.toFixed(3)));
      button.dataset.row = content.ids[index];
      grid.append(button);
    }
    at("chosen").dataset.row = content.ids[i];
    at("chosen").replaceChildren(
      element("div", { className: "self" }, picture(i), facts(i)),
      element("h2", {}, `Nearest ${state.near.length} of the ${n.toLocaleString("en")} shown`),
      element("p", {}, `by cosine of all ${k} numbers${classes ? `; ${same} of its class` : ""}`), grid,
      element("p", { className: "note" }, classes ? "Prediction and surprise are a logistic probe’s, which has learnt from the labels of training images." : ""));
    at("chosen").scrollTop = 0;
    draw();
  }

  // --- search ---
  function find(text) {
    text = text.trim();
    state.match = null;
    let said = "";
    const kind = label.kinds.findIndex((name) => name.toLowerCase() === text.toLowerCase());
    if (kind >= 0) {
      state.match = new Set(label.values.flatMap((value, i) => (value === kind ? [i] : [])));
      said = `${state.match.size.toLocaleString("en")} images of class ${label.kinds[kind]}`;
    } else if (/^#?\d+$/.test(text)) {
      const i = content.ids.indexOf(Number(text.replace("#", "")));
      if (i >= 0) return void (at("found").value = "", choose(i));
      said = `row ${text} is not among those shown`;
    } else if (content.files?.includes(text)) {
      return void (at("found").value = "", choose(content.files.indexOf(text)));
    } else if (text) {
      said = `no class ${content.files ? "or file " : ""}is called ${text}`;
    }
    at("found").value = said;
    draw();
  }

  // --- axes ---
  const axes = { "map-0": "t-SNE, first", "map-1": "t-SNE, second" };
  content.shares.forEach((share, j) => {
    axes[`component-${j}`] = `component ${j + 1} (${(100 * share).toPrecision(2)} %)`;
  });

  function coordinates(axis) {
    const [kind, place] = axis.split("-");
    const [values, width] = kind === "map" ? [plane, 2] : [embedding, k];
    return Array.from({ length: n }, (_, i) => values[i * width + Number(place)]);
  }

  // --- drawing ---
  function palette(count) {
    if (count <= 2) return TWO;
    if (count <= 3) return THREE;
    if (count <= TEN.length) return TEN;
    return Array.from({ length: count }, (_, i) => `hsl(${(i * 137.5) % 360} 60% ${i % 2 ? 45 : 60}%)`);
  }

  function draw() {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const x = coordinates(state.x), y = coordinates(state.y);

    const points = (indices, more) => ({
      type: "scatter", mode: "markers", hoverinfo: "none", customdata: indices,
      x: indices.map((i) => x[i]), y: indices.map((i) => y[i]),
      // a search leaves the others faint
      selectedpoints: state.match && indices.flatMap((i, place) => (state.match.has(i) ? [place] : [])),
      unselected: { marker: { opacity: 0.06 } }, ...more,
    });
    const traces = [];
    const category = content.categories[state.colour];
    if (category) {
      const colours = palette(category.kinds.length);
      category.kinds.forEach((name, kind) => {
        const indices = category.values.flatMap((value, i) => (value === kind ? [i] : []));
        if (indices.length) traces.push(points(indices, { name, marker: { color: colours[kind], size: 6, opacity: 0.8 } }));
      });
    } else {
      const { meaning, values } = content.measures[state.colour];
      const known = values.filter((value) => value !== null).sort((a, b) => a - b);
      const low = known[0], high = known[Math.floor(0.98 * (known.length - 1))];  // a few extremes would flatten the rest
      traces.push(points(values.map((_, i) => i), {
        showlegend: false,
        marker: {
          color: values, size: 6, opacity: 0.85, colorscale: RAMP, cmin: low, cmax: high > low ? high : low + 1,
          colorbar: { title: { text: meaning, side: "right" }, thickness: 12, outlinewidth: 0, len: 0.8 },
        },
      }));
    }
    if (state.chosen !== null) {
      const ringed = [...state.near.map(({ index }) => index), state.chosen];
      traces.push({
        type: "scatter", mode: "markers", hoverinfo: "skip", showlegend: false,
        x: ringed.map((i) => x[i]), y: ringed.map((i) => y[i]),
        marker: {
          symbol: "circle-open", color: colour("--ink"),
          size: ringed.map((i) => (i === state.chosen ? 20 : 12)),
          line: { width: ringed.map((i) => (i === state.chosen ? 3 : 1.5)) },
        },
      });
    }

    const axis = (name) => ({
      title: { text: axes[name], standoff: 8 }, automargin: true, gridcolor: colour("--rule"), zerolinecolor: colour("--quiet"), zerolinewidth: 1,
      // a t-SNE map has neither unit nor origin
      ...(name.startsWith("map") ? { showticklabels: false, zeroline: false, showgrid: false } : {}),
    });
    const map = state.x.startsWith("map") && state.y.startsWith("map") && state.x !== state.y;
    Plotly.react(at("plot"), traces, {
      xaxis: axis(state.x), yaxis: { ...axis(state.y), ...(map ? { scaleanchor: "x" } : {}) },
      paper_bgcolor: colour("--paper"), plot_bgcolor: colour("--paper"),
      font: { color: colour("--ink"), family: colour("--sans"), size: 13 },
      margin: { l: 30, r: 20, t: 20, b: 30 }, dragmode: "pan", hovermode: "closest", showlegend: Boolean(category),
      legend: { title: { text: state.colour }, itemsizing: "constant", uirevision: state.colour },
      uirevision: `${state.x} ${state.y}`,  // a zoom outlives a click
    }, { responsive: true, displaylogo: false, scrollZoom: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] });
  }

  function hover({ points: [point], event }) {
    const box = at("hover"), i = point.customdata;
    box.replaceChildren(picture(i), facts(i));
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const fits = (start, size, room) => (start + 16 + size < room ? start + 16 : Math.max(0, start - 16 - size));
    box.style.left = `${fits(event.clientX, width, innerWidth)}px`;
    box.style.top = `${fits(event.clientY, height, innerHeight)}px`;
  }

  // --- start ---
  const option = (value, text) => element("option", { value }, text);
  at("colour").append(...[...Object.keys(content.categories), ...Object.keys(content.measures)].map((name) => option(name, name)));
  for (const side of ["x", "y"]) {
    at(side).append(...Object.entries(axes).map(([value, text]) => option(value, text)));
    at(side).value = state[side];
    at(side).onchange = () => { state[side] = at(side).value; draw(); };
  }
  at("colour").onchange = () => { state.colour = at("colour").value; draw(); };
  at("classes").append(...label.kinds.map((name) => option(name, name)));
  at("find").onchange = () => find(at("find").value);
  at("find").onsearch = () => find(at("find").value);
  at("controls").onsubmit = (event) => event.preventDefault();
  at("chosen").append(element(
    "p", {}, "Point at an image to see it, click to see its nearest. Drag to move, turn the wheel to zoom, click in the legend to hide."));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  at("sheet").decode().then(() => {
    draw();
    at("plot").on("plotly_click", ({ points: [point] }) => choose(point.customdata));
    at("plot").on("plotly_hover", hover);
    at("plot").on("plotly_unhover", () => { at("hover").hidden = true; });
    document.body.dataset.ready = "true";
  });
})();
