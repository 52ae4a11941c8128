"use strict";
// The OpenAPI description, readable; everything comes from /openapi.json.

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

let schemas = {};
const followed = (schema) => (schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema);
const nameOf = (schema) => schema.$ref.split("/").pop();

function kindOf(schema) {
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return schema.anyOf.filter((one) => one.type !== "null").map(kindOf).join(" or ");
  if (schema.type === "array") return `list of ${kindOf(schema.items || {})}`;
  if (schema.type === "object" && schema.additionalProperties) return `text → ${kindOf(schema.additionalProperties)}`;
  return schema.type || "anything";
}

function limitsOf(schema) {
  const all = [schema, ...(schema.anyOf || [])];
  const said = [];
  for (const one of all) {
    if (one.minimum !== undefined) said.push(`from ${one.minimum}`);
    if (one.maximum !== undefined) said.push(`to ${one.maximum.toLocaleString("en")}`);
    const most = one.maxItems ?? one.maxProperties;
    if (most !== undefined) said.push(`at most ${most.toLocaleString("en")}`);
    if (one.maxLength !== undefined) said.push(`${one.maxLength} characters`);
  }
  return said.join(", ");
}

function rowsOf(entries) {
  const table = make("table");
  const head = make("tr");
  for (const text of ["field", "kind", ""]) head.append(make("th", "", text));
  table.append(head);
  for (const [name, schema, needed] of entries) {
    const row = make("tr");
    const given = schema.default !== undefined && schema.default !== null ? `Default ${JSON.stringify(schema.default)}.` : "";
    const limits = limitsOf(schema);
    row.append(make("td", "", name + (needed ? " *" : "")), make("td", "", kindOf(schema) + (limits ? ` (${limits})` : "")),
      make("td", "", [schema.description, given].filter(Boolean).join(". ")));
    table.append(row);
  }
  return table;
}

function tableOf(schema) {
  const needed = new Set(schema.required || []);
  return rowsOf(Object.entries(schema.properties || {}).map(([name, one]) => [name, one, needed.has(name)]));
}

function exampleOf(schema) {
  const body = {};
  for (const [name, one] of Object.entries(schema.properties || {})) {
    const example = one.examples && one.examples[0];
    if (example !== undefined) body[name] = example;
  }
  return JSON.stringify(body);
}

function callOf(path, verb, call) {
  const panel = make("section", "panel call");
  const head = make("h2");
  head.append(make("span", "verb", verb.toUpperCase()), path);
  panel.append(head, make("p", "hint", call.description || call.summary));
  const query = (call.parameters || []).filter((one) => one.in === "query");
  if (query.length) panel.append(rowsOf(query.map((one) => [one.name, { ...one.schema, description: one.description || one.schema.description }, one.required])));
  const body = call.requestBody && call.requestBody.content["application/json"].schema;
  const base = location.href.replace(/docs.*$/, "");
  let curl = `curl ${base}${path.slice(1)}`;
  if (body) {
    const schema = followed(body.anyOf ? body.anyOf[0] : body);
    panel.append(tableOf(schema));
    curl += ` -H 'Content-Type: application/json' -d '${exampleOf(schema)}'`;
  }
  if ((call.parameters || []).some((one) => one.name === "authorization")) curl += " -H \"Authorization: Bearer $TOKEN\"";
  panel.append(make("pre", "", curl));
  for (const [status, answer] of Object.entries(call.responses || {})) {
    const content = answer.content && answer.content["application/json"];
    const kind = content && content.schema && content.schema.$ref ? ` ${nameOf(content.schema)}` : "";
    panel.append(make("p", "hint", `${status}${kind}: ${answer.description}`));
  }
  return panel;
}

fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  schemas = api.components.schemas;
  document.getElementById("model").textContent = `${api.info.title} ${api.info.version}. ${api.info.description}`;
  const calls = document.getElementById("calls");
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, call] of Object.entries(verbs)) calls.append(callOf(path, verb, call));
  }
  const panel = make("section", "panel call");
  panel.append(make("h2", "", "What comes back"));
  for (const [name, schema] of Object.entries(schemas)) {
    if (name.endsWith("Request") || !schema.properties) continue;
    panel.append(make("h2", "", name), tableOf(schema));
  }
  calls.append(panel);
});
