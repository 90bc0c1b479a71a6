// A long text of a page: it has some lines in a box that scrolls to the passage that decided a label, and can be opened.
const LONGEST_SHOWN = 600; // characters

const withCommas = (number) => number.toLocaleString("en");
const placeOf = ([start, end], length) =>
  say("characters", { from: withCommas(start + 1), to: withCommas(end), all: withCommas(length) });

// The paragraph of a text; if the text is long, in its box.
function textBox(paragraph, length) {
  if (length <= LONGEST_SHOWN) return paragraph;
  const host = document.createElement("div"), box = document.createElement("div");
  const open = document.createElement("button");
  box.className = "box";
  box.tabIndex = 0; // so that it can be scrolled without a mouse
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", say("text"));
  box.append(paragraph);
  open.className = "open";
  const show = (all) => {
    box.classList.toggle("all", all);
    open.textContent = all ? say("someLines") : say("allCharacters", { count: withCommas(length) });
    open.setAttribute("aria-expanded", String(all));
  };
  open.onclick = () => {
    show(!box.classList.contains("all"));
    scrollToPassage(paragraph);
    box.scrollIntoView({ block: "nearest" });
  };
  show(false);
  host.append(box, open);
  return host;
}

function scrollToPassage(paragraph) {
  const box = paragraph.closest(".box"), passage = paragraph.querySelector(".passage");
  if (!box || !passage) return;
  const line = parseFloat(getComputedStyle(paragraph).lineHeight); // one line stays visible before the passage
  box.scrollTop += passage.getBoundingClientRect().top - box.getBoundingClientRect().top - 1.2 * line;
}
