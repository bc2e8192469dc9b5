// Loaded before the page is drawn, so that a chosen theme does not flash in the other one first.
try {
  const chosen = localStorage.getItem("runcast.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; then the system's preference holds.
}
