// Light or dark, as this browser was told, or else as its system is. Before anything is drawn.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("espf-theme") || (system.matches ? "dark" : "light");
    document.documentElement.setAttribute("data-bs-theme", chosen);
  };
  apply();
  system.addEventListener("change", apply);
  addEventListener("click", (event) => {
    if (event.target.closest("[data-theme-switch]")) {
      const dark = document.documentElement.getAttribute("data-bs-theme") === "dark";
      localStorage.setItem("espf-theme", dark ? "light" : "dark");
      apply();
    }
  });
})();
