import { about, ask, attempt, card, el, galleryButton, record, recordField } from "./view.js";

export async function draw(page, { like } = {}) {
  const parts = [], records = new Map();
  const chosen = el("div", { class: "bar", "aria-live": "polite" }), results = el("div", { class: "columns", "aria-live": "polite" });
  const form = el("form", { class: "query", "aria-label": "query", onsubmit: (event) => { event.preventDefault(); attempt(search); } });
  form.append(el("span", { class: "head" }), el("span", { class: "head faint" }, "like this"), el("span", { class: "head faint" }, "weight"));
  for (const [field, input] of Object.entries(about.inputs)) {
    const typed = Boolean(input.placeholder), id = `q-${field}`;
    const control = typed ? el("textarea", { id, rows: 1, placeholder: input.placeholder })
      : el("input", { id, type: "file", accept: input.accept || false });
    const weight = el("input", { type: "number", step: "0.1", value: "1", "aria-label": `weight of ${field}`, title: "below 0: unlike it" });
    const box = el("div", typed ? {} : { class: "drop" }, control);
    if (!typed) dropped(box, control);
    if (input.prose) control.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); form.requestSubmit(); } });
    form.append(el("span", {}, el("label", { for: id }, field), el("span", { class: "faint" }, input.label && ` ${input.label}`)), box, weight);
    parts.push({ field, control, weight, typed });
  }
  const named = recordField("Add", add, "q-record"), [key, keys, more] = named.parts;
  form.append(el("span", {}, el("label", { for: "q-record" }, "record")), el("div", {}, key, keys), more);
  form.append(el("span"), el("div", { class: "bar" }, el("button", { type: "submit", class: "main" }, "Search"),
    el("button", { type: "button", onclick: () => { form.reset(); records.clear(); chosen.replaceChildren(); results.replaceChildren(); summary.textContent = "Query"; } }, "Clear")), el("span"));
  const summary = el("summary", {}, "Query"), fold = el("details", { class: "fold", open: true }, summary, form, chosen);
  page.append(el("p", { class: "faint" }, "Give one thing or several; weights mix them, and a weight below 0 means unlike it. Each column ranks records by one field of theirs. Files may be dropped anywhere here."), fold, results);
  anywhere(page, parts, () => attempt(search));

  async function add(number, weight = 1) {
    const it = await record(number);
    const amount = el("input", { type: "number", step: "0.1", value: weight, "aria-label": `weight of ${it.key}` });
    const tag = el("span", { class: "card", "data-key": it.key }, `${it.key} `, amount, " ", el("button", { type: "button", "aria-label": `remove ${it.key}`, onclick: () => { records.delete(number); tag.remove(); } }, "×"));
    if (records.has(number)) return;
    records.set(number, amount);
    chosen.append(tag);
  }

  async function search() {
    results.replaceChildren();
    const body = new FormData(), asked = { weights: {}, records: {} };
    if (key.value.trim()) await named.go();
    for (const { field, control, weight, typed } of parts) {
      const value = typed ? control.value.trim() : control.files[0];
      if (!value) continue;
      body.append(field, value);
      asked.weights[field] = Number(weight.value);
    }
    for (const [number, amount] of records) asked.records[number] = Number(amount.value);
    body.append("asked", JSON.stringify(asked));
    const lists = await ask("/view/search?k=12", { method: "POST", body });
    const columns = await Promise.all(Object.entries(lists).map(async ([field, hits]) =>
      el("section", { "data-field": field || "any", "aria-label": field ? `by ${field}` : "by any field" }, el("h2", {}, field ? `by ${field}` : "by any field"),
        hits.length ? el("p", {}, galleryButton(() => hits.map((hit) => hit.number), () => `a search ${field ? `by ${field}` : "by any field"}`, "In the gallery")) : null,
        ...(await Promise.all(hits.map((hit) => card(hit.number, { note: hit.score.toFixed(3) + (field ? "" : ` by ${hit.field}`), only: field }))))
          .map(withAddButton))));
    results.replaceChildren(...columns);
    if (Object.values(lists).some((hits) => hits.length)) away();
    if (results.getBoundingClientRect().top > innerHeight - 150) results.scrollIntoView();
  }

  /** Folds the form away, and says what was asked for. */
  function away() {
    const asked = parts.filter(({ control, typed }) => (typed ? control.value.trim() : control.files[0])).map(({ field, control, typed, weight }) => `${field} ${typed ? `“${control.value.trim().slice(0, 60)}”` : control.files[0].name}${weight.value === "1" ? "" : ` × ${weight.value}`}`);
    const likes = [...chosen.children].map((tag) => tag.dataset.key);
    const within = fold.contains(document.activeElement);
    summary.textContent = `Query: ${[...asked, ...likes.slice(0, 3), ...(likes.length > 3 ? [`${likes.length - 3} more records`] : [])].join(", ")}`;
    fold.open = false;
    if (within) summary.focus();
  }

  function withAddButton(made) {
    made.append(el("div", { class: "do" }, el("button", { type: "button", onclick: () => attempt(async () => { await add(Number(made.dataset.number)); fold.open = true; }) }, "Add to the query")));
    return made;
  }

  if (like != null) { await add(like); await search(); }
}

/** A file that is dropped beside the fields goes to the first one of its kind, and is looked for. */
function anywhere(page, parts, search) {
  page.addEventListener("dragover", (event) => event.preventDefault());
  page.addEventListener("drop", (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    const file = event.dataTransfer.files[0];
    const part = file && parts.find(({ field, typed }) => !typed && takes(about.inputs[field].accept, file));
    attempt(() => {
      if (!file) return;
      if (!part) throw new Error(`${file.name} is neither a picture nor a sound that a field here takes; drop it on the field it is meant for`);
      part.control.files = event.dataTransfer.files;
      search();
    });
  });
}

/** Whether a file is one of "image/*,.npy". */
function takes(accept, file) {
  return accept.split(",").some((one) => one.endsWith("/*") ? file.type.startsWith(one.slice(0, -1)) : one && file.name.toLowerCase().endsWith(one));
}

function dropped(box, control) {
  box.addEventListener("dragover", (event) => { event.preventDefault(); box.classList.add("over"); });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("over");
    if (event.dataTransfer.files.length) control.files = event.dataTransfer.files;
  });
}
