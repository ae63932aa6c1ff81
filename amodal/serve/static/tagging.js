// Tags: the bar that gives them to what is selected, their list, and the command that trains without them.

import { ask, attempt, count, download, el, post, say } from "./view.js";

/** selected: () => {records} or {query}, null for nothing; number: () => how many those are; changed: called when tags have changed. */
export function tagging({ selected, number, changed, show }) {
  const name = el("input", { type: "text", maxlength: 60, "aria-label": "tag", placeholder: "tag", list: "tags", autocomplete: "off" });
  const known = el("datalist", { id: "tags" }), list = el("div"), output = el("div", { "aria-live": "polite" });
  name.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); attempt(() => tag(false)); } });
  const bar = el("div", { class: "bar" }, name, known,
    el("button", { type: "button", onclick: () => attempt(() => tag(false)) }, "Tag"),
    el("button", { type: "button", onclick: () => attempt(() => tag(true)) }, "Take the tag off"),
    el("button", { type: "button", onclick: () => attempt(() => download("gallery.csv", "/view/gallery/csv", needed())) }, "Save as CSV"));

  function needed() {
    const choice = selected();
    if (!choice) throw new Error("nothing is selected: tick the box of a record, press x on it, or select all");
    return choice;
  }

  async function tag(remove) {
    const choice = needed();
    if (!name.value.trim()) { name.focus(); throw new Error("type a tag first, such as: blurred"); }
    const total = number(), result = await post("/view/tags", { tag: name.value, remove, ...choice });
    await fill();
    await changed();
    say(remove ? `Took “${name.value.trim()}” from ${count(result.changed)} of ${count(total)} records.` : `Tagged ${count(result.changed)} of ${count(total)} records “${name.value.trim()}”${result.changed < total ? "; the others had it" : ""}.`);
  }

  async function fill() {
    const tags = await ask("/view/tags");
    known.replaceChildren(...tags.map((it) => el("option", { value: it.tag })));
    const row = ({ tag: text, records, elsewhere }) => el("tr", {}, el("th", { scope: "row" }, text), el("td", { class: "none" }, `${count(records)}${elsewhere ? `, ${count(elsewhere)} of them not here` : ""}`),
      el("td", {}, el("div", { class: "do" }, el("button", { type: "button", onclick: () => show(text) }, "Show"), el("a", { href: `/view/tags.csv?tag=${encodeURIComponent(text)}`, download: "tagged.csv" }, "CSV of keys"),
        el("button", { type: "button", onclick: () => attempt(() => without(text)) }, "Train without these"),
        el("button", { type: "button", "aria-label": `delete the tag ${text}`, onclick: (event) => attempt(() => remove(event.target, text)) }, "Delete"))));
    list.replaceChildren(tags.length ? el("table", {}, el("tbody", {}, ...tags.map(row))) : el("p", { class: "faint" }, "There is no tag yet."));
    return tags.length;
  }

  /** The second press deletes. */
  async function remove(button, text) {
    if (button.dataset.sure == null) { button.dataset.sure = ""; button.textContent = "Delete it for good"; return; }
    await ask(`/view/tags?tag=${encodeURIComponent(text)}`, { method: "DELETE" });
    output.replaceChildren();
    await fill();
    await changed();
  }

  async function without(text) {
    output.replaceChildren();
    const { command, records, left_out: parts, note } = await post("/view/without", { tags: [text] });
    const copied = el("button", { type: "button", onclick: () => attempt(async () => { await navigator.clipboard.writeText(command); copied.textContent = "Copied"; }) }, "Copy");
    const counts = Object.entries(parts).filter(([, n]) => n).map(([part, n]) => `${count(n)} of ${part}`).join(", ");
    output.replaceChildren(el("div", { class: "card" }, el("p", {}, `The same training without “${text}”: ${count(records)} records are left, and ${counts} left out.`),
      el("pre", { tabindex: 0, "aria-label": "the command" }, el("code", { id: "command" }, command)), el("div", { class: "do" }, copied), note ? el("p", { class: "faint" }, note) : null,
      el("p", { class: "faint" }, "The list of the other keys is written. Tag more, and ask for the command once more.")));
    output.scrollIntoView({ block: "nearest" });
  }

  const tags = el("details", { class: "tags" }, el("summary", {}, "Tags, and training without them"), list, output);
  return { bar, tags, fill };
}
