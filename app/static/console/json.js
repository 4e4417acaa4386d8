// Reads JSON and remembers where each value stands, so that an error can be shown at its place.

export class JsonError extends Error {
  // `message`: a key of the texts; `offset`: characters from the beginning.
  constructor(message, offset) {
    super(message);
    this.offset = offset;
  }
}

class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.places = new Map();
  }

  blank() {
    while (/\s/.test(this.text[this.at] ?? "")) this.at++;
  }

  fail(message, offset = this.at) {
    throw new JsonError(message, offset);
  }

  value(path) {
    this.blank();
    const start = this.at;
    const found = this.anyValue(path);
    this.places.set(path, [start, this.at]);
    this.blank();
    return found;
  }

  anyValue(path) {
    const next = this.text[this.at];
    if (next === undefined) this.fail("json.end");
    if (next === "{") return this.object(path);
    if (next === "[") return this.list(path);
    if (next === '"') return this.string();
    const word = /^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.+-])/.exec(this.text.slice(this.at));
    if (!word) this.fail("json.value");
    this.at += word[0].length;
    return JSON.parse(word[0]);
  }

  object(path) {
    const found = {};
    this.at++;
    this.blank();
    while (this.text[this.at] !== "}") {
      if (this.text[this.at] !== '"') this.fail(this.at < this.text.length ? "json.key" : "json.end");
      const start = this.at;
      const name = this.string();
      if (Object.hasOwn(found, name)) this.fail("json.twice", start);
      this.blank();
      if (this.text[this.at] !== ":") this.fail("json.colon");
      this.at++;
      const value = this.value(`${path}.${name}`);
      Object.defineProperty(found, name, { value, enumerable: true, writable: true, configurable: true });
      if (this.text[this.at] === ",") {
        this.at++;
        this.blank();
        if (this.text[this.at] === "}") this.fail("json.comma");
      } else if (this.text[this.at] !== "}") this.fail(this.at < this.text.length ? "json.separator" : "json.end");
    }
    this.at++;
    return found;
  }

  list(path) {
    const found = [];
    this.at++;
    this.blank();
    while (this.text[this.at] !== "]") {
      found.push(this.value(`${path}.${found.length}`));
      if (this.text[this.at] === ",") {
        this.at++;
        this.blank();
        if (this.text[this.at] === "]") this.fail("json.comma");
      } else if (this.text[this.at] !== "]") this.fail(this.at < this.text.length ? "json.separator" : "json.end");
    }
    this.at++;
    return found;
  }

  string() {
    const found = /^"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/.exec(this.text.slice(this.at));
    if (!found) this.fail("json.string");
    this.at += found[0].length;
    return JSON.parse(found[0]);
  }
}

// Returns {value, places}: places maps paths such as ".filters.0.key" to [start, end]. Throws JsonError.
export function readJson(text) {
  const reader = new Reader(text);
  const value = reader.value("");
  if (reader.at < text.length) reader.fail("json.after");
  return { value, places: reader.places };
}

// The place of an error of the server, such as body.filter.and.filters.0.eq.value: names of types in it are passed over.
export function placeOf(places, location, root) {
  const parts = location.split(".");
  if (parts[0] === "body") parts.shift();
  if (root && parts[0] === root) parts.shift();
  let path = "";
  for (const part of parts) {
    if (places.has(`${path}.${part}`)) path = `${path}.${part}`;
  }
  return places.get(path);
}

export function lineAndColumn(text, offset) {
  const before = text.slice(0, offset).split("\n");
  return [before.length, before[before.length - 1].length + 1];
}
