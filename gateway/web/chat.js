/** The page: one pane, or two side by side; theme; what it says while there is no network. */

import { Access } from "./access.js";
import { setText } from "./dom.js";
import { Pane } from "./pane.js";
import { showTheme } from "./theme-button.js";

const SIDE_BY_SIDE = "side-by-side";

function showNetwork() {
  const banner = document.getElementById("offline");
  const show = () => {
    banner.hidden = navigator.onLine;
    setText(banner, navigator.onLine ? "" : "You are offline. Runs go on; this page catches up when the network is back.");
  };
  addEventListener("online", show);
  addEventListener("offline", show);
  show();
}

async function showPanes() {
  const place = document.getElementById("panes");
  const view = new URLSearchParams(location.search).get("view") === SIDE_BY_SIDE ? SIDE_BY_SIDE : "single";
  document.body.dataset.view = view;
  document.querySelector(`.views [data-view="${view}"]`).setAttribute("aria-current", "page");
  const access = await Access.find();
  const panes = view === "single" ? [{ name: "single" }]
    : [0, 1].map((index) => ({ name: `side-${index}`, hue: index, person: access.people[index] }));
  for (const options of panes) new Pane(access, { ...options, place });
}

showTheme();
showNetwork();
showPanes();
