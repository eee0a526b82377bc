"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const plotSettings = { displaylogo: false, responsive: true, displayModeBar: false };
const drawn = new Set();  // keys of the plots that have been on the screen
const outdated = new Set();  // of those, the ones whose figure has changed since

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const spikes = { spikecolor: color("--muted"), spikethickness: 1, spikedash: "dot" };
  return {
    ...layout,
    uirevision: "kept",
    font: { color: color("--muted"), size: 12, family: getComputedStyle(document.body).fontFamily },
    xaxis: { ...layout.xaxis, gridcolor: color("--grid"), ...spikes },
    yaxis: { ...layout.yaxis, gridcolor: color("--grid") },
    hoverlabel: { bgcolor: color("--card"), bordercolor: color("--line"), font: { color: color("--text") } },
  };
}

function draw(key) {
  drawn.add(key);
  outdated.delete(key);
  Plotly.react("plot-" + key, figures[key].data, themed(figures[key].layout), plotSettings);
}

// A plot is drawn when it is about to be seen, so that a page with many is there at once.
const whenSeen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    const key = entry.target.id.replace(/^plot-/, "");
    if (!drawn.has(key) || outdated.has(key)) draw(key);
  }
}, { rootMargin: "300px" });

function watchPlots() {
  if (!window.Plotly) return;  // the live page fetches it last
  whenSeen.disconnect();
  drawn.clear();
  outdated.clear();
  for (const key of Object.keys(figures)) whenSeen.observe(document.getElementById("plot-" + key));
}

watchPlots();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const key of drawn) draw(key);
});

document.getElementById("plots").addEventListener("click", (event) => {
  const button = event.target.closest(".key");
  if (button === null) return;
  const visible = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(visible));
  for (const trace of figures[button.dataset.plot].data) {
    if (trace.legendgroup === button.textContent) trace.visible = visible;
  }
  draw(button.dataset.plot);
});

addEventListener("beforeprint", () => Object.keys(figures).forEach(draw));
