"use strict";
(() => {
  const make = (tag, text, more) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text }, more);

  // ------------------------------------------------------------------------------------------------------ the tables

  const keyOf = (row, column) => {
    const text = row.cells[column].dataset.v;
    const value = text === "inf" ? Infinity : text === "" || text === "nan" ? NaN : Number(text);
    return { value, text, lost: text === "nan" || text === "", word: Number.isNaN(value) };
  };
  const compare = (a, b, sign) => {
    if (a.lost || b.lost) return a.lost - b.lost; // what is not there comes last, either way
    if (a.word || b.word) return sign * a.text.localeCompare(b.text, "en", { numeric: true });
    return sign * (a.value === b.value ? 0 : a.value < b.value ? -1 : 1);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
      rows.sort((a, b) => compare(a[0], b[0], down ? -1 : 1));
      body.append(...rows.map((pair) => pair[1]));
    }));
    const find = table.closest(".tabled").querySelector(".find input");
    find?.addEventListener("input", () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of body.rows) {
        const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
        row.hidden = !words.every((word) => cells.some((cell) => (/^[\d.]+$/.test(word) ? cell === word : cell.includes(word))));
      }
    });
  }

  // ----------------------------------------------------------------------------------------------- numbers, as printed

  const percent = (share) => { // as Python rounds: of a tie, to the even digit
    const x = 100 * share, tie = (4 * x) % 4;
    return `${tie === 1 ? Math.floor(x) + 0.2 : tie === 3 ? Math.floor(x) + 0.8 : x.toFixed(1)}`.replace(/^(\d+\.\d).*$/, "$1") + "%";
  };
  const number = (value) => {
    if (typeof value === "string") return value;
    if (value && !(Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6)) {
      return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
    }
    const places = value ? Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))) : 2;
    return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  };
  const whole = (value) => value.toLocaleString("en");
  const many = (value, one) => `${whole(value)} ${one}${value === 1 ? "" : "s"}`;

  // ----------------------------------------------------------------------------------------------------- the explorer

  const data = JSON.parse(document.getElementById("data").textContent);
  const explorer = document.getElementById("explorer");
  if (!explorer || !data.runs.length) return;
  explorer.hidden = false;
  const plot = document.getElementById("plot"), card = document.getElementById("client");
  const controls = explorer.querySelector(".controls"), key = explorer.querySelector(".key");
  const at = (column, k) => (Array.isArray(column) ? column[k] : column);
  const NS = "http://www.w3.org/2000/svg";
  const SHAPES = [
    (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    (x, y, r) => `M${x},${y - r * 1.2}l${r * 1.15},${r * 2}h${-r * 2.3}z`,
    (x, y, r) => `M${x - r * 0.9},${y - r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}z`,
    (x, y, r) => `M${x},${y + r * 1.2}l${r * 1.15},${-r * 2}h${-r * 2.3}z`,
    (x, y, r) => `M${x},${y - r * 1.3}l${r * 1.2},${r * 1.3}l${-r * 1.2},${r * 1.3}l${-r * 1.2},${-r * 1.3}z`,
    (x, y, r) => `M${x - r * 0.4},${y - r * 1.1}h${r * 0.8}v${r * 0.7}h${r * 0.7}v${r * 0.8}h${-r * 0.7}v${r * 0.7}h${-r * 0.8}v${-r * 0.7}h${-r * 0.7}v${-r * 0.8}h${r * 0.7}z`,
    (x, y, r) => `M${x - r},${y - r}l${2 * r},${2 * r}M${x + r},${y - r}l${-2 * r},${2 * r}`,
  ];
  const shapeOf = (tier) => SHAPES[tier % SHAPES.length];
  const colourOf = (tier) => `var(--t${tier % SHAPES.length})`;

  const state = { place: 0, order: "rank", marks: [], svg: null };
  let run, world, count;

  const draw = (tag, told, text) => {
    const element = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(told)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    state.svg.append(element);
    return element;
  };

  // What is judged of client k: coverage, accuracy or RMSE; undefined where it was not tested.
  const judged = (k) => {
    if (run.judged === "rmse") return at(run.rmse, k) ?? undefined;
    const hits = at(run.hits, k), tests = at(world.test, k);
    return hits === null || !tests ? undefined : hits / tests;
  };
  const nameOf = (k) => `client ${world.names?.[k] ?? k}`;
  const interval = (k) => data.intervals[at(world.test, k)]?.[at(run.hits, k)];
  const shownAs = (value) => (run.judged === "rmse" ? number(value) : percent(value));

  const select = (label, values, chosen, changed) => {
    const box = make("label", label), list = make("select");
    values.forEach((value, k) => list.append(make("option", value, { value: k })));
    list.value = chosen;
    list.addEventListener("change", () => changed(Number(list.value)));
    box.append(list);
    controls.append(box);
    return list;
  };

  const ORDERS = { rank: "smallest first", calibration: "calibration points", test: "test points" };
  const lists = data.axes.map((axis) => select(axis.name, axis.values, 0, () => choose()));
  select("clients by", Object.values(ORDERS), 0, (k) => { state.order = Object.keys(ORDERS)[k]; paint(); });
  const box = make("label", "client number"), wanted = make("input", undefined, { type: "number", min: 0, size: 6 });
  wanted.addEventListener("change", () => {
    const place = state.marks.findIndex((mark) => mark.k === Number(wanted.value));
    if (place >= 0) show(place);
  });
  box.append(wanted);
  controls.append(box);

  const pointOf = () => data.points.find((point) => point.at.every((value, k) => value === Number(lists[k].value)));
  const choose = () => {
    const point = pointOf(), told = document.getElementById("where");
    const named = data.axes.map((axis, k) => `${axis.name} ${axis.values[Number(lists[k].value)]}`).join(", ");
    const missing = !point ? "there is no such point" : point.status ? point.status : point.run === null ? "not in this page" : "";
    told.textContent = missing ? `${named}: ${missing}.` : named;
    plot.hidden = card.hidden = key.hidden = Boolean(missing);
    if (missing) return;
    const before = state.marks[state.place]?.k;
    run = data.runs[point.run];
    world = data.worlds[run.world];
    count = [run.hits, world.tier, world.calibration, world.test, run.rmse, run.size].find(Array.isArray)?.length ?? 1;
    paint(before);
  };

  const ticksOf = (low, high, most) => {
    const rough = (high - low) / most || 1, unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= rough);
    const found = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) found.push(Number(t.toPrecision(12)));
    return found;
  };

  const paint = (keep = state.marks[state.place]?.k) => {
    const known = [];
    for (let k = 0; k < count; k++) {
      const value = judged(k);
      if (value !== undefined) known.push({ k, value, tier: at(world.tier, k) });
    }
    known.sort((a, b) => a.value - b.value || a.tier - b.tier || at(world.test, b.k) - at(world.test, a.k) || a.k - b.k);
    known.forEach((mark, rank) => { mark.across = state.order === "rank" ? rank + 1 : at(world[state.order], mark.k); });
    if (state.order !== "rank") known.sort((a, b) => a.across - b.across || a.value - b.value);
    state.marks = known;
    const W = Math.max(300, plot.clientWidth || 700), H = W < 500 ? 300 : 380;
    const left = 46, right = 12, top = 14, bottom = 44;
    state.svg = document.createElementNS(NS, "svg");
    state.svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    state.svg.setAttribute("aria-hidden", "true");
    plot.replaceChildren(state.svg);
    if (!known.length) { draw("text", { x: 20, y: 30 }, "No client could be tested."); card.replaceChildren(); return; }

    const share = run.judged !== "rmse", promised = run.promised === undefined ? undefined : run.promised / 100;
    const values = known.map((mark) => mark.value), least = values.reduce((a, b) => Math.min(a, b));
    let low = Math.min(least, promised ?? least), high = share ? 1 : values.reduce((a, b) => Math.max(a, b));
    const room = 0.05 * (high - low) + 0.01 * (share ? 1 : high || 1);
    low -= room; high += share ? 0.25 * room : room;
    const logs = state.order !== "rank" && known[known.length - 1].across > 30 * Math.max(1, known[0].across);
    const across = (v) => (logs ? Math.log1p(v) : v);
    const first = across(known.reduce((a, m) => Math.min(a, m.across), Infinity)), last = across(known.reduce((a, m) => Math.max(a, m.across), 0));
    const X = (v) => left + 8 + ((across(v) - first) / (last - first || 1)) * (W - left - right - 16);
    const Y = (v) => top + ((high - v) / (high - low)) * (H - top - bottom);
    for (const tick of ticksOf(Math.max(low, share ? 0 : -Infinity), share ? 1 : high, 6)) {
      draw("path", { d: `M${left},${Y(tick)}H${W - right}`, stroke: "var(--grid)" });
      draw("text", { x: left - 6, y: Y(tick) + 4, "text-anchor": "end" }, share ? `${Number((100 * tick).toPrecision(4))}%` : String(tick));
    }
    const round = logs ? [0, 1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 1e5].filter((v) => across(v) >= first && across(v) <= last) : ticksOf(first, last, W < 500 ? 4 : 8).filter(Number.isInteger);
    for (const tick of round) draw("text", { x: X(tick), y: H - bottom + 18, "text-anchor": "middle" }, whole(tick));
    const label = state.order === "rank" ? `clients, from the smallest ${run.judged} to the largest` : `${ORDERS[state.order]} of the client${logs ? " (log scale)" : ""}`;
    draw("text", { x: (left + W) / 2, y: H - 6, "text-anchor": "middle" }, label);

    known.forEach((mark) => { mark.x = X(mark.across); mark.y = Y(mark.value); });
    if (share && known.length <= 400) {
      const bars = known.map((mark) => [mark, interval(mark.k)]).filter((pair) => pair[1]);
      const d = bars.map(([m, [a, b]]) => `M${m.x.toFixed(1)},${Y(Math.max(low, a / 100)).toFixed(1)}V${Y(b / 100).toFixed(1)}`).join("");
      draw("path", { d, stroke: "var(--band)", "stroke-width": known.length > 150 ? 1 : 2, fill: "none" });
    }
    if (promised !== undefined) {
      draw("path", { d: `M${left},${Y(promised)}H${W - right}`, stroke: "var(--ink)", "stroke-dasharray": "6 4", fill: "none" });
      draw("text", { x: W - right, y: Y(promised) + 14, "text-anchor": "end", style: "paint-order:stroke;stroke:var(--paper);stroke-width:3px" }, `${run.promised}% promised`);
    }
    const r = known.length > 2000 ? 1.6 : known.length > 300 ? 2.6 : 4;
    world.tiers.forEach((_, tier) => {
      for (const bare of [false, true]) { // without calibration points: an empty mark
        const own = known.filter((m) => m.tier === tier && (at(world.calibration, m.k) === 0) === bare);
        const d = own.map((m) => shapeOf(tier)(Number(m.x.toFixed(1)), Number(m.y.toFixed(1)), r)).join("");
        if (d) draw("path", { d, fill: bare ? "var(--paper)" : colourOf(tier), stroke: colourOf(tier), "stroke-width": 0.8 });
      }
    });
    const rejected = new Set(run.rejected);
    const rings = known.filter((m) => rejected.has(m.k)).map((m) => SHAPES[0](m.x, m.y, r + 4)).join("");
    if (rings) draw("path", { d: rings, fill: "none", stroke: "var(--warn)", "stroke-width": 1.6 });
    state.cross = draw("path", { d: "", fill: "none", stroke: "var(--ink)", "stroke-width": 2 });
    state.Y = Y; state.low = low; state.r = r;
    legend(known, rings);
    show(Math.max(0, known.findIndex((mark) => mark.k === keep)));
  };

  const swatch = (path, told) => {
    const svg = document.createElementNS(NS, "svg"), mark = document.createElementNS(NS, "path");
    for (const [name, value] of Object.entries({ width: 16, height: 16, "aria-hidden": "true" })) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries({ d: path, ...told })) mark.setAttribute(name, value);
    svg.append(mark);
    return svg;
  };
  const legend = (known, rings) => {
    key.replaceChildren();
    world.tiers.forEach((tier, k) => {
      const own = known.filter((m) => m.tier === k).length, entry = make("span");
      if (!own) return;
      entry.append(swatch(shapeOf(k)(8, 8, 5), { fill: colourOf(k), stroke: colourOf(k) }), `${tier}: ${many(own, "client")}`);
      key.append(entry);
    });
    const told = (path, style, words) => { const entry = make("span"); entry.append(swatch(path, style), words); key.append(entry); };
    if (rings) told(SHAPES[0](8, 8, 6), { fill: "none", stroke: "var(--warn)", "stroke-width": 1.6 }, `falls short beyond bad luck: ${whole(run.rejected.length)}`);
    if (known.some((m) => at(world.calibration, m.k) === 0)) told(SHAPES[0](8, 8, 5), { fill: "none", stroke: "var(--ink)" }, "empty: no calibration points");
    if (run.judged !== "rmse" && known.length <= 400) told("M8,1V15", { stroke: "var(--band)", "stroke-width": 3 }, "exact 95% interval");
    const missing = count - known.length;
    if (missing) key.append(make("span", `${many(missing, "client")} not tested: not shown`));
  };

  // ------------------------------------------------------------------------------------------------------ one client

  const show = (place) => {
    state.place = place;
    const mark = state.marks[place], k = mark.k, band = run.judged === "rmse" ? undefined : interval(k);
    const reach = state.r + 7;
    let d = SHAPES[0](mark.x, mark.y, reach);
    if (band) d += `M${mark.x},${state.Y(Math.max(state.low, band[0] / 100))}V${mark.y + reach}M${mark.x},${mark.y - reach}V${state.Y(band[1] / 100)}`;
    state.cross.setAttribute("d", d);
    const tests = at(world.test, k), hits = at(run.hits, k), kind = world.kinds[at(world.kind, k)];
    const told = [["tier", world.tiers[mark.tier]], ["behaviour", kind || "behaves"], ["calibration points (n_k)", whole(at(world.calibration, k))], ["test points", whole(tests)]];
    if (run.judged === "coverage") {
      const threshold = at(run.threshold, k);
      told.push(["threshold", threshold === null ? "one a class" : number(threshold)]);
      told.push(["coverage", `${percent(mark.value)} (${whole(hits)} of ${whole(tests)})`], ["exact 95% interval", `${band[0].toFixed(1)}-${band[1].toFixed(1)}%`]);
      const size = at(run.size, k);
      if (size !== null) told.push([run.size_name, number(size)]);
    }
    const right = run.right === undefined ? null : at(run.right, k);
    if (right !== null && tests) told.push(["accuracy", percent(right / tests)]);
    if (run.judged === "accuracy" && band) told.push(["exact 95% interval", `${band[0].toFixed(1)}-${band[1].toFixed(1)}%`]);
    const trust = data.trusts[run.trust], of = (name) => (trust[name] === undefined ? null : at(trust[name], k));
    if (of("brier") !== null) told.push(["Brier score", number(of("brier"))], ["ECE", percent(of("ece"))]);
    if (of("weight") !== null) told.push(["weight", number(of("weight"))]);
    if (of("phi_brier") !== null) told.push(["PHI (Brier score)", number(of("phi_brier"))]);
    const rmse = run.rmse === undefined ? null : at(run.rmse, k);
    if (rmse !== null) told.push(["RMSE", number(rmse)]);
    if (at(run.bytes_up, k) !== null) told.push(["bytes sent, received", `${whole(at(run.bytes_up, k))}, ${whole(at(run.bytes_down, k))}`]);
    const list = make("dl");
    for (const [name, value] of told) list.append(make("dt", name), make("dd", value));
    card.replaceChildren(make("h3", nameOf(k)), list);
    if (run.promised !== undefined) card.append(make("p", verdict(k, band), { className: run.rejected.includes(k) ? "low" : "" }));
    if (world.labels) card.append(bars(k));
    plot.setAttribute("aria-valuemin", 1);
    plot.setAttribute("aria-valuemax", state.marks.length);
    plot.setAttribute("aria-valuenow", place + 1);
    plot.setAttribute("aria-valuetext", `${nameOf(k)}: ${told.map((pair) => pair.join(" ")).join(", ")}`);
  };
  const verdict = (k, band) => {
    if (run.rejected.includes(k)) return `Falls short of the promised ${run.promised}% beyond bad luck (fl-sim certify).`;
    if (band[1] < run.promised) return `Its interval ends below the promised ${run.promised}%; by itself and among many, that can be bad luck.`;
    return band[0] > run.promised ? `Its interval lies above the promised ${run.promised}%.` : `Its interval holds the promised ${run.promised}%.`;
  };
  const bars = (k) => {
    const wide = world.labels.length, own = world.counts.slice(k * wide, (k + 1) * wide), most = Math.max(1, ...own);
    const whole_ = make("div"), list = make("div", undefined, { className: "labels" });
    own.forEach((value, label) => {
      if (!value) return;
      const bar = make("i");
      bar.style.width = `${(100 * value) / most}%`;
      list.append(make("span", world.labels[label]), bar, make("span", whole(value)));
    });
    whole_.append(make("p", "Labels of its calibration points:"), list);
    return whole_;
  };

  const nearest = (event) => {
    const seen = state.svg.getBoundingClientRect(), scale = state.svg.viewBox.baseVal.width / seen.width;
    const x = (event.clientX - seen.left) * scale, y = (event.clientY - seen.top) * scale;
    let best = -1, least = 60 ** 2;
    state.marks.forEach((mark, place) => {
      const far = (mark.x - x) ** 2 + 0.5 * (mark.y - y) ** 2;
      if (far < least) { least = far; best = place; }
    });
    if (best >= 0 && best !== state.place) show(best);
  };
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("keydown", (event) => {
    const last = state.marks.length - 1, far = Math.max(10, Math.round(last / 10));
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: far, PageDown: -far, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !state.marks.length) return;
    event.preventDefault();
    show(Math.min(last, Math.max(0, state.place + steps[event.key])));
  });
  for (const button of document.querySelectorAll("button[data-point]")) {
    button.addEventListener("click", () => {
      data.points[Number(button.dataset.point)].at.forEach((value, k) => { lists[k].value = value; });
      choose();
      document.getElementById("clients").scrollIntoView();
      plot.focus({ preventScroll: true });
    });
  }
  let wide = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth && Math.abs(plot.clientWidth - wide) > 4 && state.marks.length) { wide = plot.clientWidth; paint(); }
  }).observe(plot);
  const start = data.points.find((point) => point.run !== null && !point.status);
  start.at.forEach((value, k) => { lists[k].value = value; });
  choose();
})();
