const axisButtons = [...document.querySelectorAll(".axis")];

for (const button of axisButtons) {
  button.addEventListener("click", () => {
    for (const other of axisButtons) other.setAttribute("aria-pressed", String(other === button));
    // A section that comes into view is drawn then.
    for (const section of document.querySelectorAll("#plots > section")) {
      section.hidden = section.dataset.axis !== button.dataset.axis;
    }
  });
}
