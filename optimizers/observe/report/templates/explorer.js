(() => {
  const $ = (id) => document.getElementById(id);
  const holder = $("rollouts"), list = $("list"), rows = $("rows"), detail = $("detail"), count = $("count");
  if (!holder || !list) return;
  const HEIGHT = 66, MARGIN = 8;
  let data, texts, lower, shown = [], chosen = -1, view = "all", only = null, drawn = "";

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const text = (row, column) => texts[data[column][row]];
  const outcome = (row) => {
    const score = data.score[row];
    return score === null ? "unanswered" : score >= data.threshold ? "won" : "lost";
  };
  const MARK = { won: "\u2713", lost: "\u2717", unanswered: "?" };
  const WORD = { won: "won", lost: "lost", unanswered: "no reward" };
  const question = (row) => {
    const prompt = text(row, "prompt").trimEnd();
    return prompt.slice(prompt.lastIndexOf("\n") + 1) || `${text(row, "split")} ${data.position[row]}`;
  };

  async function read() {
    const bytes = Uint8Array.from(atob(holder.textContent.trim()), (each) => each.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function options(select, column) {
    for (const each of new Set(data[column])) {
      const option = make("option", "", texts[each] || "(none)");
      option.value = String(each);
      select.append(option);
    }
  }

  function matching(words) {
    lower ??= texts.map((each) => each.toLowerCase());
    const found = lower.map((each) => each.includes(words));
    const columns = ["prompt", "supplement", "answer", "feedback", "error"].map((name) => data[name]);
    return (row) => columns.some((column) => found[column[row]]);
  }

  const ORDER = {
    question: (a, b) => data.split[a] - data.split[b] || data.position[a] - data.position[b] || a - b,
    short: (a, b) => text(a, "supplement").length - text(b, "supplement").length || a - b,
    long: (a, b) => text(b, "supplement").length - text(a, "supplement").length || a - b,
    low: (a, b) => (data.score[a] ?? 2) - (data.score[b] ?? 2) || a - b,
  };

  function filter() {
    const words = $("search").value.trim().toLowerCase();
    const stage = $("stage").value, kind = $("kind").value, wanted = $("outcome").value;
    const says = words ? matching(words) : null;
    const pool = view === "all" ? data.score.keys() : data[view].values();
    shown = [];
    for (const row of pool) {
      if (only !== null && data.query[row] !== only) continue;
      if (stage && data.stage[row] !== +stage) continue;
      if (kind && data.kind[row] !== +kind) continue;
      if (wanted && outcome(row) !== wanted) continue;
      if (says && !says(row)) continue;
      shown.push(row);
    }
    const order = ORDER[$("order").value];
    if (order) shown.sort(order);
    const won = shown.reduce((sum, row) => sum + (outcome(row) === "won"), 0);
    count.textContent = `${shown.length.toLocaleString("en")} shown, ${won.toLocaleString("en")} won` +
      (only === null ? "" : "; of one query");
    rows.style.height = `${shown.length * HEIGHT}px`;
    list.scrollTop = 0;
    drawn = "";
    draw();
    choose(shown.length ? 0 : -1, false);
  }

  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - MARGIN);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + MARGIN);
    const window = `${first}-${last}-${chosen}`;
    if (window === drawn) return;
    drawn = window;
    const parts = [];
    for (let place = first; place < last; place += 1) parts.push(line(place));
    rows.replaceChildren(...parts);
  }

  function line(place) {
    const row = shown[place], kind = outcome(row), item = make("div", `row ${kind}`);
    item.id = `row-${place}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(place === chosen));
    item.setAttribute("aria-posinset", String(place + 1));
    item.setAttribute("aria-setsize", String(shown.length));
    item.style.top = `${place * HEIGHT}px`;
    const mark = make("span", "mark", MARK[kind]);
    mark.setAttribute("aria-label", WORD[kind]);
    mark.setAttribute("role", "img");
    const said = text(row, "supplement");
    item.append(
      mark,
      make("span", "question", question(row)),
      make("span", said ? "said" : "said quiet", said || (rewritten(row) ? text(row, "answer") : "(no supplement)")),
      make("span", "meta", `${text(row, "stage")}, ${text(row, "split")} ${data.position[row]}`),
    );
    item.addEventListener("click", () => choose(place, true));
    return item;
  }

  function choose(place, reveal) {
    chosen = place;
    if (place >= 0) {
      list.setAttribute("aria-activedescendant", `row-${place}`);
      const top = place * HEIGHT;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
    } else list.removeAttribute("aria-activedescendant");
    draw();
    describe(place < 0 ? null : shown[place]);
    if (reveal && matchMedia("(max-width: 50rem)").matches) detail.scrollIntoView({ block: "start" });
  }

  function block(name, value, className) {
    const part = make("div", "block"), body = make("pre", className, value);
    body.tabIndex = 0;
    part.append(make("h4", "", name), body);
    return part;
  }

  const rewritten = (row) => data.before[row] >= 0 && text(data.before[row], "stage") === "student";

  function answered(row, name) {
    const side = make("div", `side ${outcome(row)}`), score = data.score[row];
    const head = make("h3", "", name);
    head.append(" ", make("span", "badge", score === null ? "no reward" : `${WORD[outcome(row)]}, ${score}`));
    side.append(head);
    const said = text(row, "supplement"), error = text(row, "error");
    if (!rewritten(row)) side.append(block("Supplement", said || "(none)", said ? "" : "quiet"));
    if (text(row, "answer")) side.append(block("Answer", text(row, "answer")));
    if (text(row, "feedback")) side.append(block("Feedback", text(row, "feedback")));
    if (error) side.append(block("Error", error));
    return side;
  }

  function describe(row) {
    if (row === null) {
      detail.replaceChildren(make("p", "quiet", "Nothing matches. Clear the filters to see everything."));
      return;
    }
    const before = data.before[row], about = make("p", "quiet");
    about.textContent = `${text(row, "stage")} on ${text(row, "split")} ${data.position[row]}, ` +
      (rewritten(row) ? "" : `${text(row, "kind")} from ${text(row, "source")}, for ${text(row, "place")}, `) +
      `query ${text(row, "query")}`;
    const sides = make("div", "sides");
    const [first, second] = rewritten(row) ? ["Before", "After"] : ["Without", "With the supplement"];
    if (before >= 0 && before !== row) sides.append(answered(before, first));
    sides.append(answered(row, before === row ? first : second));
    const parts = [make("h3", "", question(row)), about, sides];
    if (text(row, "prompt")) parts.push(block("What the generator read", text(row, "prompt")));
    if (text(row, "others")) parts.push(block("What other places read", text(row, "others")));
    const same = make("button", "", only === null ? "All rollouts of this query" : "Back to all queries");
    same.type = "button";
    same.addEventListener("click", () => {
      only = only === null ? data.query[row] : null;
      look("all");
      list.focus();
    });
    parts.push(same);
    detail.replaceChildren(...parts);
  }

  function look(which) {
    view = which;
    for (const each of document.querySelectorAll("[data-view]")) {
      each.setAttribute("aria-pressed", String(each.dataset.view === view));
    }
    filter();
  }

  function listen() {
    let waiting = 0;
    $("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 120);
    });
    for (const name of ["stage", "kind", "outcome", "order"]) $(name).addEventListener("change", filter);
    document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
    for (const each of document.querySelectorAll("[data-view]")) {
      each.addEventListener("click", () => {
        only = null;
        look(each.dataset.view);
      });
    }
    $("clear").addEventListener("click", () => {
      document.querySelector(".filters").reset();
      only = null;
      look("all");
    });
    list.addEventListener("scroll", draw, { passive: true });
    addEventListener("resize", draw);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };
    list.addEventListener("keydown", (event) => {
      if (!(event.key in steps) || !shown.length) return;
      event.preventDefault();
      choose(Math.max(0, Math.min(shown.length - 1, chosen + steps[event.key])), false);
    });
  }

  read().then((found) => {
    data = found;
    texts = found.texts;
    options($("stage"), "stage");
    options($("kind"), "kind");
    listen();
    look(data.right.length ? "right" : "all");
    document.documentElement.dataset.ready = "yes";
  }, (problem) => {
    count.textContent = `The rollouts cannot be read here (${problem.message}). A browser of 2023 or later can.`;
  });
})();
