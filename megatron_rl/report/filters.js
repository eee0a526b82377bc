const filters = ["step", "verdict", "text"].map((name) => document.getElementById("filter-" + name));
const completions = [...document.querySelectorAll(".completion")];

function applyFilters() {
  const [step, verdict, text] = filters.map((element) => element.value);
  let shown = 0;
  for (const item of completions) {
    item.hidden = (step !== "" && item.dataset.step !== step)
      || (verdict !== "" && ![item.dataset.verdict, ...item.dataset.flaws.split(" ")].includes(verdict))
      || (text !== "" && !item.textContent.toLowerCase().includes(text.toLowerCase()));
    shown += item.hidden ? 0 : 1;
  }
  document.getElementById("count").textContent = `${shown} of ${completions.length}`;
}
for (const element of filters) element.addEventListener("input", applyFilters);
applyFilters();
