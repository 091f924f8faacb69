// Renders /openapi.json for people. No dependencies; everything is written as text, never as HTML.

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const code = (text) => element("code", {}, text);
const named = (reference) => reference.split("/").at(-1);

function resolve(document_, value) {
  if (!value?.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((part, key) => part[key], document_);
}

/** What a schema is, in a few words; names of schemas are links. */
function typeOf(schema) {
  if (!schema || Object.keys(schema).length === 0) return ["anything"];
  if (schema.$ref) return [element("a", { href: `#schema-${named(schema.$ref)}` }, named(schema.$ref))];
  const arms = schema.anyOf ?? schema.oneOf;
  if (arms && !schema.properties) return arms.flatMap((arm, index) => (index ? [" or ", ...typeOf(arm)] : typeOf(arm)));
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items)];
  return [[schema.type, schema.format && `(${schema.format})`].filter(Boolean).join(" ") || "anything"];
}

function limitsOf(schema) {
  const of = [schema, ...(schema.anyOf ?? [])];
  const words = [];
  for (const part of of) {
    if (part.minLength !== undefined || part.maxLength !== undefined)
      words.push(`${part.minLength ?? 0}–${part.maxLength ?? "∞"} characters`);
    if (part.minItems !== undefined || part.maxItems !== undefined)
      words.push(`${part.minItems ?? 0}–${part.maxItems ?? "∞"} entries`);
    if (part.minimum !== undefined || part.maximum !== undefined)
      words.push(`${part.minimum ?? "−∞"} to ${part.maximum ?? "∞"}`);
    if (part.pattern) words.push(part.pattern);
  }
  if (schema.default !== undefined && schema.default !== null) words.push(`default ${JSON.stringify(schema.default)}`);
  return words.join("; ");
}

function members(schema) {
  if (!schema.properties) return element("p", {}, ...typeOf(schema));
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties).map(([name, member]) =>
    element(
      "tr",
      {},
      element("td", {}, code(name), required.has(name) ? " *" : ""),
      element("td", {}, ...typeOf(member)),
      element("td", {}, [member.description, limitsOf(member)].filter(Boolean).join(" ")),
    ),
  );
  return element("table", {}, element("tbody", {}, ...rows));
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(path, method, operation) {
  const words = [`curl -X ${method.toUpperCase()} ${quoted(location.origin + path)}`];
  if (operation.security.some((scheme) => scheme.bearer)) words.push('-H "Authorization: Bearer $TOKEN"');
  const media = operation.requestBody?.content["application/json"];
  if (media) {
    const example = Object.values(media.examples ?? {})[0]?.value ?? {};
    words.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(example, null, 2))}`);
  }
  return words.join(" \\\n  ");
}

function rights(operation) {
  if (operation.security.length === 0) return "Public.";
  const scopes = operation.security.flatMap((scheme) => scheme.bearer ?? []);
  return scopes.length ? `Needs a token with the scope ${scopes.join(", ")}.` : "Needs a token.";
}

function card(document_, path, method, operation) {
  const body = operation.requestBody?.content["application/json"]?.schema;
  const answers = Object.entries(operation.responses).map(([status, response]) => {
    const media = Object.values(resolve(document_, response).content ?? {})[0];
    return element(
      "tr",
      {},
      element("td", {}, status),
      element("td", {}, resolve(document_, response).description),
      element("td", {}, ...(media ? typeOf(media.schema) : ["nothing"])),
    );
  });
  const parameters = (operation.parameters ?? []).map((parameter) =>
    element(
      "tr",
      {},
      element("td", {}, code(parameter.name), parameter.required ? " *" : ""),
      element("td", {}, parameter.in),
      element("td", {}, ...typeOf(parameter.schema)),
      element("td", {}, limitsOf(parameter.schema)),
    ),
  );
  return element(
    "details",
    { id: operation.operationId },
    element("summary", {}, element("span", { class: "method" }, method.toUpperCase()), code(path), ` ${operation.summary}`),
    element(
      "div",
      {},
      ...(operation.description ?? "").split("\n\n").map((text) => element("p", {}, text)),
      element("p", { class: "muted" }, rights(operation)),
      parameters.length ? element("h4", {}, "Parameters") : null,
      parameters.length ? element("table", {}, element("tbody", {}, ...parameters)) : null,
      body ? element("h4", {}, "Body: ", ...typeOf(body)) : null,
      body ? members(resolve(document_, body)) : null,
      element("h4", {}, "Answers"),
      element("table", {}, element("tbody", {}, ...answers)),
      element("pre", {}, curl(path, method, operation)),
    ),
  );
}

function render(document_) {
  const contents = document.getElementById("contents");
  const operations = document.getElementById("operations");
  operations.replaceChildren();
  for (const { name: tag } of document_.tags) {
    const section = element("section", {}, element("h2", {}, tag));
    const list = element("ul");
    for (const [path, methods] of Object.entries(document_.paths)) {
      for (const method of METHODS) {
        const operation = methods[method];
        if (operation?.tags[0] !== tag) continue;
        section.append(card(document_, path, method, operation));
        const link = element("a", { href: `#${operation.operationId}` }, `${method.toUpperCase()} ${path}`);
        list.append(element("li", {}, link));
      }
    }
    operations.append(section);
    contents.append(element("h3", {}, tag), list);
  }
  const schemas = document.getElementById("schemas");
  for (const [name, schema] of Object.entries(document_.components.schemas)) {
    schemas.append(
      element(
        "details",
        { id: `schema-${name}` },
        element("summary", {}, code(name)),
        element("div", {}, element("p", {}, schema.description ?? ""), members(schema)),
      ),
    );
  }
  open();
}

/** The operation or schema that the address names is unfolded and shown. */
function open() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target instanceof HTMLDetailsElement) target.open = true;
  target.scrollIntoView();
}

addEventListener("hashchange", open);

const response = await fetch("/openapi.json");
if (response.ok) {
  render(await response.json());
} else {
  document.getElementById("operations").textContent = `/openapi.json cannot be read (${response.status}).`;
}
