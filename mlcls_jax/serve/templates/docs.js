// The endpoints, their fields and answers from /openapi.json, with a form that calls each.
let schemas = {};

function resolve(schema) {
  return schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema;
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.contentMediaType || schema.format === "binary") return "file";
  return schema.type || "any";
}

const isFile = (schema) => typeOf(schema.type === "array" ? schema.items : schema) === "file";

// An answer with made-up values.
function example(schema) {
  const own = resolve(schema);
  if (own.type === "array") return [example(own.items)];
  if (own.type === "object" || own.properties) {
    return Object.fromEntries(Object.entries(own.properties || {}).map(([k, v]) => [k, example(v)]));
  }
  return {string: "text", number: 0.5, integer: 1, boolean: true}[own.type] ?? null;
}

function fieldTable(parent, caption, schema) {
  const own = resolve(schema.type === "array" ? schema.items : schema);
  if (!own.properties) return;
  const table = make("table", "", parent), head = make("tr", "", make("thead", "", table));
  make("caption", "hidden", table, caption);
  for (const text of ["field", "type", "about"]) make("th", "", head, text).scope = "col";
  const body = make("tbody", "", table);
  for (const [name, field] of Object.entries(own.properties)) {
    const row = make("tr", "", body);
    make("code", "", make("td", "", row), name);
    make("td", "", row, typeOf(field));
    make("td", "", row, field.description || "");
  }
}

function refusalTable(card, path, refusals) {
  const details = make("details", "", card);
  make("summary", "", details, `Refusals: ${refusals.map(([status]) => status).join(", ")}`);
  const table = make("table", "", details);
  make("caption", "hidden", table, `Refusals of ${path}`);
  for (const [status, description] of refusals) {
    const row = make("tr", "", table), head = make("th", "", row, status);
    head.scope = "row";
    make("td", "", row, description);
  }
  make("pre", "", details, JSON.stringify({detail: "the reason in one line"}));
}

function curl(path, verb, fields) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = Object.entries(fields).map(
    ([name, schema]) => `-F ${quoted(`${name}=${isFile(schema) ? "@photo.jpg" : "..."}`)}`);
  const header = token ? '-H "Authorization: Bearer $MLCLS_JAX_TOKEN"' : "";
  return ["curl", header, ...parts, location.origin + path].filter(Boolean).join(" ");
}

function endpoint(path, verb, about) {
  const card = make("section", "card", byId("main")), title = make("h2", "", card);
  make("span", "verb", title, verb.toUpperCase());
  make("code", "", title, ` ${path}`);
  title.id = `${verb}${path.replaceAll("/", "-")}`;
  card.setAttribute("aria-labelledby", title.id);
  make("p", "", card, about.description || about.summary);
  const body = Object.values(about.requestBody?.content || {})[0]?.schema;
  const fields = body ? resolve(body).properties : {};
  if (body) {
    make("h3", "", card, "Fields of the form");
    fieldTable(card, `Fields of ${path}`, body);
  }
  make("h3", "", card, "Answers");
  const refusals = [];
  for (const [status, {description, content}] of Object.entries(about.responses)) {
    const schema = content?.["application/json"]?.schema || {};
    if (Number(status) >= 400) {
      refusals.push([status, description]);
      continue;
    }
    const details = make("details", "", card);
    make("summary", "", details, `${status}: ${typeOf(schema)}`);
    fieldTable(details, `Answer ${status} of ${path}`, schema);
    make("pre", "", details, JSON.stringify(example(schema), null, 2));
  }
  refusalTable(card, path, refusals);
  make("h3", "", card, "Try it");
  make("pre", "", card, curl(path, verb, fields));
  tryIt(card, path, verb, fields);
}

function tryIt(card, path, verb, fields) {
  const form = make("form", "", card);
  for (const [name, schema] of Object.entries(fields)) {
    const input = make("input", "", make("label", "", form, name));
    input.name = name;
    input.required = true;
    input.type = isFile(schema) ? "file" : "text";
    input.multiple = schema.type === "array";
  }
  make("button", "", form, "Send").type = "submit";
  const state = make("p", "soft", card), answer = make("pre", "", card);
  state.setAttribute("role", "status");
  answer.hidden = true;
  form.onsubmit = async (event) => {
    event.preventDefault();
    const body = verb === "get" ? undefined : new FormData(form), began = performance.now();
    state.textContent = "…";
    const given = await send(path, {method: verb.toUpperCase(), body});
    const text = given ? await given.text() : "";
    const took = Math.round(performance.now() - began);
    state.textContent = given ? `${given.status}, ${took} ms` : "The server does not answer.";
    answer.hidden = !text;
    try {
      answer.textContent = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      answer.textContent = text;
    }
  };
}

send("/openapi.json", {}).then((answer) => answer && answer.ok && answer.json()).then((api) => {
  if (!api) {
    byId("about").textContent = "The description of the endpoints, /openapi.json, was not read.";
    return;
  }
  schemas = api.components?.schemas || {};
  byId("title").textContent = document.title = `${api.info.title} ${api.info.version}`;
  byId("about").textContent = `${api.info.description} This page reads /openapi.json.`;
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, about] of Object.entries(verbs)) endpoint(path, verb, about);
  }
});
