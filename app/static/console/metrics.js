// Reads Prometheus's text format, and compares two samples.

const OWN = ["/health", "/metrics", "/console"];

export function parse(text, at) {
  const sample = { at, requests: 0, errors: 0, buckets: new Map(), gauges: {} };
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const [, name, labelText, value] = found;
    const labels = Object.fromEntries([...(labelText ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((one) => [one[1], one[2]]));
    if (labels.route && OWN.some((path) => labels.route.startsWith(path))) continue;
    if (name === "chat_memory_requests_total") {
      sample.requests += Number(value);
      if (labels.status?.startsWith("5")) sample.errors += Number(value);
    } else if (name === "chat_memory_request_seconds_bucket") {
      const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
      sample.buckets.set(bound, (sample.buckets.get(bound) ?? 0) + Number(value));
    } else if (!labelText) sample.gauges[name] = Number(value);
  }
  return sample;
}

// Rate in requests a second, times in seconds; null where nothing was asked between the two samples.
export function measure(sample, last) {
  const seconds = last ? (sample.at - last.at) / 1000 : null;
  return {
    rate: last ? Math.max(0, (sample.requests - last.requests) / seconds) : null,
    p50: quantile(sample, last, 0.5),
    p95: quantile(sample, last, 0.95),
    errors: sample.errors,
    sagas: sample.gauges.chat_memory_sagas_in_flight ?? 0,
    garbage: sample.gauges.chat_memory_vector_gc_backlog ?? 0,
  };
}

function quantile(sample, last, share) {
  if (!last) return null;
  const counts = [...sample.buckets.entries()].map(([bound, count]) => [bound, count - (last.buckets.get(bound) ?? 0)]).sort((one, other) => one[0] - other[0]);
  const total = counts.length ? counts[counts.length - 1][1] : 0;
  if (!total) return null;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= total * share) return bound === Infinity ? lower : lower + (bound - lower) * ((total * share - below) / (count - below || 1));
    [lower, below] = [bound, count];
  }
  return lower;
}
