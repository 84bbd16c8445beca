document.documentElement.classList.add("js");
for (const tabs of document.querySelectorAll(".tabs")) {
  const nav = tabs.querySelector(":scope > nav"), links = [...nav.children], parts = [...tabs.querySelectorAll(":scope > section")];
  const show = (chosen) => links.forEach((link, i) => {
    link.setAttribute("aria-selected", i === chosen);
    link.tabIndex = i === chosen ? 0 : -1;
    parts[i].hidden = i !== chosen;
  });
  nav.setAttribute("role", "tablist");
  links.forEach((link, i) => {
    link.setAttribute("role", "tab");
    link.setAttribute("aria-controls", parts[i].id);
    parts[i].setAttribute("role", "tabpanel");
    link.addEventListener("click", (event) => { event.preventDefault(); show(i); history.replaceState(null, "", link.hash); });
    link.addEventListener("keydown", (event) => {
      const next = (i + { ArrowRight: 1, ArrowLeft: -1 }[event.key] + links.length) % links.length;
      if (links[next]) { show(next); links[next].focus(); }
    });
  });
  const target = location.hash && document.querySelector(location.hash);
  show(Math.max(0, parts.findIndex((part) => target && part.contains(target))));
}
