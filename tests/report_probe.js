// Put into a report before its own scripts by the tests: uses the page as a person would, and tells the page around it what it found.
{
const problems = [];
window.addEventListener("error", (event) => problems.push(String(event.message)));
window.addEventListener("securitypolicyviolation", (event) => problems.push(`blocked ${event.blockedURI}`));
for (const kind of ["error", "warn"]) console[kind] = (...parts) => problems.push(parts.join(" "));

function rgb(text) {
  return text.match(/[\d.]+/g).slice(0, 3).map(Number);
}
function luminance(colour) {
  const [r, g, b] = rgb(colour).map((part) => part / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function ground(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/rgba\(.*, 0\)|transparent/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
}
// The lowest contrast of any text with what lies behind it, as WCAG defines it.
function contrast() {
  let least = 21;
  for (const element of document.querySelectorAll("main *")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(element);
    const pair = [luminance(element instanceof SVGElement ? style.fill : style.color), luminance(ground(element))];
    least = Math.min(least, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
  }
  return least;
}
function point(kind, x, y) {
  const target = document.elementFromPoint(x, y);
  target.dispatchEvent(new PointerEvent(kind, { bubbles: true, clientX: x, clientY: y }));
}
function hover(selector) {
  const mark = document.querySelector(selector);
  mark.scrollIntoView({ block: "center" });
  const frame = mark.getBoundingClientRect();
  point("pointermove", frame.x + frame.width / 2, frame.y + frame.height / 2);
  const tip = mark.closest(".chart").querySelector(".tip");
  return tip.hidden ? null : tip.innerText;
}
function fills() {
  return [...document.querySelectorAll("#map circle[fill^='#'], #map circle[fill^='rgb']")].map((c) => c.getAttribute("fill"));
}
function choose(id, value) {
  const chosen = document.getElementById(id);
  chosen.value = value;
  chosen.dispatchEvent(new Event("change"));
}
window.addEventListener("load", () => {
  const found = { headings: [...document.querySelectorAll("h2")].map((h) => h.textContent) };
  found.circles = fills().length;
  found.tip = hover("#map circle");
  found.boxTip = hover("rect.box");
  const before = fills();
  const choices = [...document.getElementById("colour").options].map((option) => option.value);
  choose("colour", choices[choices.length - 1]);
  found.recoloured = fills().some((fill, at) => fill !== before[at]);
  found.legend = document.getElementById("legend").innerText;
  const figures = document.getElementById("figure").options;
  const other = figures[figures.length - 1].value;
  choose("figure", other);
  found.otherFigure = [...document.querySelectorAll("svg text")].some((text) => text.textContent === other);
  found.choices = choices;
  found.contrast = contrast();
  found.width = [document.documentElement.scrollWidth, window.innerWidth];
  found.charts = [...document.querySelectorAll(".chart svg")].map((svg) => [svg.viewBox.baseVal.width, svg.parentElement.clientWidth]);
  found.cut = [...document.querySelectorAll("svg text")].filter((text) => {
    const [mine, frame] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
    return mine.left < frame.left - 1 || mine.right > frame.right + 1;
  }).map((text) => text.textContent);
  const charts = [...document.querySelectorAll(".chart svg")];
  found.uncovered = charts.filter((svg) => {
    const lines = [...svg.querySelectorAll(".rule line")].map((line) => Number(line.getAttribute("y1")));
    const marks = [...svg.querySelectorAll("rect.box, rect.bin")].flatMap((mark) => {
      const [y, height] = ["y", "height"].map((name) => Number(mark.getAttribute(name)));
      return [y, y + height];
    });
    return Math.min(...marks) < Math.min(...lines) - 0.1 || Math.max(...marks) > Math.max(...lines) + 0.6;
  }).map((svg) => svg.getAttribute("aria-label"));
  found.fewTicks = charts.filter((svg) => svg.querySelector("rect.bin")
    && [...svg.querySelectorAll("text[text-anchor=middle]")].filter((text) => /^-?[\d.]+$/.test(text.textContent)).length < 3)
    .map((svg) => svg.getAttribute("aria-label"));
  found.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  found.injected = window.injected === true;
  found.problems = problems;
  window.parent.postMessage(JSON.stringify(found), "*");
});
}
