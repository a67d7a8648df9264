"use strict";
// Sends a picture as the protocol's BYTES, and draws what comes back. Names of classes are text, never markup.
const $ = (id) => document.getElementById(id);
const HEADER = "Inference-Header-Content-Length";
let model = null, picture = null, turn = 0;

async function answer(address, options) {
  const response = await fetch(address, options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? `the server answers with status ${response.status}`);
  return found;
}

function body(file, parameters) {
  const input = {name: "image", shape: [1], datatype: "BYTES", parameters: {binary_data_size: file.size + 4}};
  const json = new TextEncoder().encode(JSON.stringify({inputs: [input], parameters}));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, file.size, true);
  return {length: json.length, blob: new Blob([json, length, file], {type: "application/octet-stream"})};
}

async function predict(file) {
  const mine = ++turn;
  const chosen = $("threshold").hidden || !$("score").dataset.touched ? {} : {score: Number($("score").value)};
  const {length, blob} = body(file, chosen);
  const started = performance.now();
  const found = await answer(`v2/models/${model.name}/infer`, {method: "POST", body: blob, headers: {[HEADER]: length}});
  if (mine !== turn) return; // a newer picture is on its way
  const outputs = Object.fromEntries(found.outputs.map((each) => [each.name, each.data]));
  await show(file, outputs, performance.now() - started);
}

const colour = (index) => `hsl(${(index * 137.508) % 360} 85% 45%)`;

async function show(file, outputs, took) {
  const rows = outputs.labels.map((label, at) => ({
    label, index: outputs.classes[at], score: outputs.scores[at], box: outputs.boxes?.slice(4 * at, 4 * at + 4)}));
  await draw(file, rows.filter((row) => row.box));
  const what = outputs.boxes ? `${rows.length} ${rows.length === 1 ? "object" : "objects"}` : rows[0]?.label ?? "";
  $("summary").textContent = `${file.name || "picture"}: ${what}, ${took.toFixed(0)} ms with the way there and back`;
  $("head").replaceChildren(...cells("th", ["class", "score", ...(outputs.boxes ? ["left, top, right, bottom"] : [])]));
  $("rows").replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    const box = row.box ? [row.box.map((side) => side.toFixed(0)).join(", ")] : [];
    line.append(...cells("td", [row.label, row.score.toFixed(3), ...box]));
    if (row.box) {
      const swatch = document.createElement("i");
      swatch.style.background = colour(row.index);
      line.firstChild.prepend(swatch);
    }
    return line;
  }));
  $("result").hidden = false;
}

function cells(kind, texts) {
  return texts.map((text, place) => {
    const cell = document.createElement(kind);
    cell.textContent = text;
    if (place === 1) cell.className = "number";
    return cell;
  });
}

async function draw(file, rows) {
  const canvas = $("picture");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // turned as its EXIF says, as the server turns it
  } catch {
    canvas.hidden = true; // a format that the server reads and this browser does not
    return;
  }
  canvas.hidden = false;
  const larger = Math.max(1, Math.ceil(320 / Math.max(bitmap.width, bitmap.height)));
  canvas.width = bitmap.width * larger;
  canvas.height = bitmap.height * larger;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = larger === 1;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const unit = Math.max(canvas.width, canvas.height) / 640;
  context.font = `${Math.max(11, Math.round(14 * unit))}px system-ui, sans-serif`;
  context.textBaseline = "top";
  context.lineWidth = Math.max(1.5, 2.5 * unit);
  for (const row of [...rows].reverse()) {
    const [left, top, right, bottom] = row.box.map((side) => side * larger);
    context.strokeStyle = context.fillStyle = colour(row.index);
    context.strokeRect(left, top, right - left, bottom - top);
    const text = `${row.label} ${row.score.toFixed(2)}`;
    const height = parseInt(context.font) * 1.35, width = context.measureText(text).width + 8;
    const at = [Math.max(0, Math.min(left, canvas.width - width)), top >= height ? top - height : top];
    context.fillRect(...at, width, height);
    context.fillStyle = "#fff";
    context.fillText(text, at[0] + 4, at[1] + height * 0.12);
  }
}

async function take(file) {
  if (!file || !model) return;
  picture = file;
  $("message").textContent = "";
  try {
    await predict(file);
  } catch (error) {
    $("message").textContent = error.message;
    $("result").hidden = true;
  }
}

async function begin() {
  try {
    const about = await answer("v2");
    model = await answer(`v2/models/${about.models[0]}`);
    document.title = `${model.name}: edgeopt`;
    $("name").textContent = model.name;
    $("state").textContent = `ready, edgeopt ${about.version}`;
    $("address").textContent = `/v2/models/${model.name}/infer`;
    $("threshold").hidden = model.parameters?.score === undefined;
    $("score").value = $("shown-score").textContent = model.parameters?.score ?? 0;
  } catch (error) {
    $("state").textContent = "";
    $("message").textContent = error.message;
  }
}

$("file").addEventListener("change", (event) => take(event.target.files[0]));
$("score").addEventListener("input", () => {
  $("score").dataset.touched = "1";
  $("shown-score").textContent = $("score").value;
});
$("score").addEventListener("change", () => take(picture));
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
begin();
