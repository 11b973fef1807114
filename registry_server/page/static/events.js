// What happened to instances, as the history tells it.

/** The states between events of one instance (the latest first), as `[state, from, to]`. */
export function spells(events, now) {
  const found = [];
  let ends = now;
  for (const it of events) {
    if (it.state !== "gone") found.push([it.state, it.at, ends]);
    ends = it.at;
  }
  return found.reverse();
}
